"""Write the CustomResourceDefinition where users and the Helm chart find it (`make crds`)."""

from pathlib import Path

from finetune_api import names
from finetune_api.crd import custom_resource_definition
from finetune_operator.cli.output import to_yaml

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from crds/finetune_api by `make crds`. Do not edit.\n"
TARGETS = (
    ROOT / "crds" / f"{names.CRD_NAME}.yaml",
    ROOT / "charts" / "finetune-operator" / "files" / "crd.yaml",
)


def rendered() -> str:
    """The text of the files."""
    return HEADER + to_yaml([custom_resource_definition()])


if __name__ == "__main__":
    for target in TARGETS:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rendered())
        print(target.relative_to(ROOT))
