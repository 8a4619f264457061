"""Commands that run other commands: `run`, `quickstart`, `ablate`."""

from semhitok.command import Command

COMMANDS = (
    Command(
        "quickstart",
        "train, measure and show everything on small real data, on a CPU",
        "semhitok quickstart --out runs/quickstart",
        settings="semhitok.recipe_settings:QuickstartSettings",
        function="semhitok.recipe:quickstart",
    ),
    Command(
        "run",
        "run the steps of a recipe, from raw data to a report",
        "semhitok run configs/recipes/quickstart.yaml --out runs/quickstart",
        settings="semhitok.recipe_settings:RunSettings",
        function="semhitok.recipe:run",
    ),
    Command(
        "ablate",
        "train and measure variants of the tokenizer with several seeds, for one table",
        "semhitok ablate --config configs/ablation/quickstart.yaml",
        settings="semhitok.ablation_settings:AblationSettings",
        function="semhitok.ablate:ablate",
        yaml=True,
    ),
)
