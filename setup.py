"""What pyproject.toml cannot say: the YAML files of configs/ are installed as semhitok/configs/."""

from setuptools import find_packages, setup

PACKAGES = ("runtime", "data_pipelines", "tokenizer", "mllm", "eval", "semhitok")

setup(
    packages=[
        *find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
        "semhitok.configs",
    ],
    package_dir={"semhitok.configs": "configs"},
    package_data={"semhitok.configs": ["**/*"], "": ["*.yaml", "*.html", "templates/*"]},
)
