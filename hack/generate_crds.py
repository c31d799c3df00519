"""Write the CustomResourceDefinition where users and the Helm chart find it (`make crds`)."""

from pathlib import Path

import yaml

from finetune_api import names
from finetune_api.crd import custom_resource_definition

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from crds/finetune_api by `make crds`. Do not edit.\n"
TARGETS = (
    ROOT / "crds" / f"{names.CRD_NAME}.yaml",
    ROOT / "charts" / "finetune-operator" / "files" / "crd.yaml",
)


class _Dumper(yaml.SafeDumper):
    """Writes everything out: anchors and aliases are for machines."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def rendered() -> str:
    """The text of the files."""
    definition = custom_resource_definition()
    return HEADER + yaml.dump(definition, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


if __name__ == "__main__":
    for target in TARGETS:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rendered())
        print(target.relative_to(ROOT))
