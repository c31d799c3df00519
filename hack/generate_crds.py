"""Write what the API server enforces where users and the Helm chart find it (`make crds`)."""

from pathlib import Path

from finetune_api import names, secrets_policy
from finetune_api.crd import custom_resource_definition
from finetune_operator.cli.output import to_yaml

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Generated from crds/finetune_api by `make crds`. Do not edit.\n"
TARGETS = (
    ROOT / "crds" / f"{names.CRD_NAME}.yaml",
    ROOT / "charts" / "finetune-operator" / "files" / "crd.yaml",
)
SECRETS_POLICY = ROOT / "charts" / "finetune-operator" / "files" / "secrets-policy.yaml"


def rendered() -> str:
    """The text of the CustomResourceDefinition's files."""
    return HEADER + to_yaml([custom_resource_definition()])


def rendered_secrets_policy() -> str:
    """The part of the ValidatingAdmissionPolicy that follows from the models; the chart has the rest."""
    return HEADER + to_yaml([secrets_policy.rules()])


if __name__ == "__main__":
    for target in TARGETS:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rendered())
        print(target.relative_to(ROOT))
    SECRETS_POLICY.write_text(rendered_secrets_policy())
    print(SECRETS_POLICY.relative_to(ROOT))
