"""Commands of `data_pipelines`."""

from semhitok.command import Command

COMMANDS = (
    Command(
        "prepare",
        "validate raw images, captions, questions, conversations and texts into shards",
        "semhitok prepare easy-vqa-test --out runs/prepared-test",
        "data_pipelines.prepare.settings:PrepareSettings",
        "data_pipelines.prepare.run:prepare",
    ),
    Command(
        "data inspect",
        "counts, lengths, sizes, a contact sheet and rejects of prepared data, as one HTML page",
        "semhitok data inspect runs/quickstart/data/test --out runs/inspect.html",
        "data_pipelines.loading.settings:InspectSettings",
        "data_pipelines.loading.inspect_page:inspect_data",
    ),
    Command(
        "data images",
        "write images of prepared data as files again, as they were",
        "semhitok data images --data runs/quickstart/data/test --out runs/images --max-images 8",
        "data_pipelines.loading.settings:ImagesSettings",
        "data_pipelines.loading.image_files:write_images",
    ),
)
