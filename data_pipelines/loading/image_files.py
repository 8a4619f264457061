"""`semhitok data images`: images of prepared data as files again, as they were."""

from pathlib import Path

from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.settings import ImagesSettings
from runtime.errors import UserError
from runtime.files import write_bytes
from runtime.run_folder import make_folder

ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}


def write_images(settings: ImagesSettings) -> Path:
    """Write the first images as `NAME-0.png` and so on, NAME being that of the data's folder."""
    dataset = PreparedDataset(settings.data, images_only=True)
    num_images = min(len(dataset), settings.max_images or len(dataset))
    if not num_images:
        raise UserError(f"{settings.data} holds no image")
    folder = make_folder(settings.out)
    for index in range(num_images):
        _, encoded, _ = dataset.image(index)
        ending = next((e for start, e in ENDINGS.items() if encoded.startswith(start)), ".bmp")
        write_bytes(folder / f"{settings.data.resolve().name}-{index}{ending}", encoded)
    return folder
