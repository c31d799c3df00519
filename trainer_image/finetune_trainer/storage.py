"""The job's own directory on its storage volume: what lies where, and whose it is."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidConfigurationError, described

# What a run leaves behind. Finding any of it without the run's identity means that it is somebody else's.
_CONTENTS = (
    names.OUTPUT_DIR,
    names.MERGED_DIR,
    names.CHECKPOINTS_DIR,
    names.RESUME_DIR,
    names.METRICS_FILE,
    names.EVALUATIONS_FILE,
    names.REPORT_FILE,
)


@dataclass(frozen=True)
class Storage:
    """Paths of one run."""

    root: Path
    claim_path: str
    """Where `root` lies on its claim: the status speaks of paths on claims."""
    uid: str
    """Identity of the run."""

    @classmethod
    def of(cls, config: RunConfig) -> "Storage":
        """The storage of a run."""
        return cls(Path(config.locations.storage), config.storage.path, config.uid)

    @property
    def output(self) -> Path:
        """The trained model, or the adapter."""
        return self.root / names.OUTPUT_DIR

    @property
    def merged(self) -> Path:
        """The base model with the adapter merged in."""
        return self.root / names.MERGED_DIR

    @property
    def checkpoints(self) -> Path:
        """Models kept along the way."""
        return self.root / names.CHECKPOINTS_DIR

    @property
    def resume(self) -> Path:
        """State from which a later attempt goes on."""
        return self.root / names.RESUME_DIR

    def weights_after(self, step: int) -> Path:
        """The model after so many steps, kept along the way."""
        return self.checkpoints / f"step-{step:08d}"

    def full_state_after(self, epoch: float) -> Path:
        """The model and the state after so many whole epochs."""
        return self.checkpoints / f"{names.FULL_STATE_PREFIX}{round(epoch)}"

    def full_states(self) -> list[Path]:
        """All of those."""
        return list(self.checkpoints.glob(f"{names.FULL_STATE_PREFIX}*[0-9]"))

    def state_after(self, step: int) -> Path:
        """The state after so many steps, for a later attempt to go on from."""
        return self.resume / f"step-{step:08d}"

    def kind_of(self, path: Path) -> Literal["weights", "resume", "fullState"]:
        """What kind of checkpoint lies there."""
        if path.parent == self.resume:
            return "resume"
        return "fullState" if path.name.startswith(names.FULL_STATE_PREFIX) else "weights"

    @property
    def metrics(self) -> Path:
        """Measurements of every optimizer step, one per line."""
        return self.root / names.METRICS_FILE

    @property
    def evaluations(self) -> Path:
        """Scores of every evaluation, one per line."""
        return self.root / names.EVALUATIONS_FILE

    @property
    def report(self) -> Path:
        """The newest Report."""
        return self.root / names.REPORT_FILE

    @property
    def environment(self) -> Path:
        """Software and hardware of the newest attempt."""
        return self.root / "environment.json"

    @property
    def plan(self) -> Path:
        """Micro-batches, counted for the plan: what of it takes long."""
        return self.root / "plan.json"

    @property
    def chosen(self) -> Path:
        """What the guide chose when the run began."""
        return self.root / "chosen.json"

    @property
    def token_budget(self) -> Path:
        """The token budget that the run came down to by running out of memory."""
        return self.root / "token-budget.json"

    def log(self, attempt: int, node: int) -> Path:
        """What one node of one attempt printed."""
        return self._logs(attempt) / names.node_log(node)

    def repeated_steps(self, attempt: int) -> Path:
        """Measurements of steps of one attempt that a later one did again."""
        return self._logs(attempt) / "repeated-steps.jsonl"

    def repeated_evaluations(self, attempt: int) -> Path:
        """Scores of evaluations of one attempt that came after the step from which a later one went on."""
        return self._logs(attempt) / "repeated-evaluations.jsonl"

    def _logs(self, attempt: int) -> Path:
        return self.root / names.attempt_logs(attempt)

    def on_claim(self, path: Path) -> str:
        """A path as it is found on the claim."""
        return f"{self.claim_path}/{path.relative_to(self.root)}"


def claim(config: RunConfig, *, node: int) -> None:
    """Make the directory this run's own, or make sure that it is.

    Node 0 alone writes the identity, so two nodes that start together cannot disagree.
    Raises InvalidConfigurationError, with nothing touched, when it belongs to another run; OSError when it
    cannot be written to.
    """
    root = Path(config.locations.storage)
    identity = root / names.RUN_IDENTITY_FILE
    remedy = "Set another spec.storage.path, or remove the directory if its content is no longer needed."
    where = f"spec.storage: the directory {described(config.storage, root)}"
    if identity.exists():
        owner = _read(identity)
        if owner.get("uid") != config.uid:
            name = f"{owner.get('namespace')}/{owner.get('name')} (uid {owner.get('uid')})"
            raise InvalidConfigurationError(f"{where} belongs to another run, {name}. {remedy}")
    elif found := [name for name in _CONTENTS if (root / name).exists()]:
        raise InvalidConfigurationError(f"{where} holds {', '.join(found)} of an unknown run. {remedy}")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=root, prefix=".writable-"):
        pass
    if node == 0 and not identity.exists():
        mine = {"uid": config.uid, "namespace": config.namespace, "name": config.name}
        commit.replace_file(identity, json.dumps(mine))


def _read(identity: Path) -> dict[str, str]:
    try:
        value = json.loads(identity.read_text())
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}
