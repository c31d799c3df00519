#!/usr/bin/env python3
"""Fine-tune SmolLM2-135M on questions about Python's standard library and show how it goes (`make demo`).

Every step prints the command that it runs, so that a reader can do the same by hand.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table

from clusters import choice

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = Path("examples") / "sft.yaml"
NAMESPACE = "demo"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "finetune-operator" / "demo"


def say(text: str) -> None:
    """A headline."""
    click.secho(f"\n==> {text}", bold=True)


def run(*command: str | Path, capture: bool = False) -> str:
    """Show a command, run it, and return what it printed where `capture` is set.

    Raises subprocess.CalledProcessError when it fails.
    """
    words = [str(word) for word in command]
    click.secho(f"$ {shlex.join(words)}", dim=True)
    output = subprocess.PIPE if capture else None
    done = subprocess.run(words, cwd=ROOT, check=True, stdout=output, text=True)
    return (done.stdout or "").strip()


def kubectl(*arguments: str | Path, capture: bool = False) -> str:
    """Run kubectl in the demo's namespace."""
    return run("hack/cluster", "kubectl", "--namespace", NAMESPACE, *arguments, capture=capture)


class Demo:
    """The demo's job and the folders of its three claims."""

    def __init__(self) -> None:
        job = yaml.safe_load((ROOT / MANIFEST).read_text())
        self.name: str = job["metadata"]["name"]
        spec = job["spec"]
        self.model: dict[str, str] = spec["model"]["volume"]
        self.train: dict[str, str] = spec["dataset"]["train"]["volume"]
        self.runs: dict[str, str] = spec["storage"]

    def fill(self, folders: dict[str, Path]) -> None:
        """Put the base model and the data set where the job will look for them."""
        say("The base model and the training data")
        # Converted once on this machine, then copied: a volume may be made anew for every demo.
        model = CACHE / "model"
        run(sys.executable, "hack/demo/model.py", model)
        shutil.copytree(model, folders[self.model["claimName"]] / self.model["path"], dirs_exist_ok=True)
        run(
            sys.executable,
            "hack/demo/dataset.py",
            (folders[self.train["claimName"]] / self.train["path"]).parent,
        )

    def storage(self, folders: dict[str, Path]) -> Path:
        """The job's own directory."""
        return folders[self.runs["claimName"]] / self.runs.get("path", self.name)

    def claims(self) -> list[str]:
        """Names of all claims of the job."""
        return sorted({source["claimName"] for source in (self.model, self.train, self.runs)})

    def compare(self, folders: dict[str, Path]) -> None:
        """Show what training has changed."""
        say("Before and after")
        base = folders[self.model["claimName"]] / self.model["path"]
        heldout = (folders[self.train["claimName"]] / self.train["path"]).with_name("heldout.jsonl")
        run(sys.executable, "hack/demo/compare.py", base, self.storage(folders) / "output", heldout)


def on_pods(demo: Demo) -> None:
    """The whole way on a Kubernetes cluster."""
    say("A cluster with the operator in it")
    run("hack/cluster", "up")
    run(sys.executable, "hack/deploy.py")
    run("hack/cluster", "kubectl", "apply", "-f", "hack/demo/namespace.yaml")
    # A job of an earlier demo owns its directory: both go, so that training starts anew.
    kubectl("delete", "finetunejob", demo.name, "--ignore-not-found", "--cascade=foreground")

    say("Claims for the model, the data and the results")
    folders = {
        claim: Path(run("hack/cluster", "volume", f"{NAMESPACE}/{claim}", capture=True).splitlines()[-1])
        for claim in demo.claims()
    }
    shutil.rmtree(demo.storage(folders), ignore_errors=True)
    demo.fill(folders)

    say("The job")
    kubectl("apply", "-f", MANIFEST)
    kubeconfig = run("hack/cluster", "kubeconfig", capture=True)
    os.environ["KUBECONFIG"] = kubeconfig
    run("finetune", "watch", demo.name, "--namespace", NAMESPACE)

    say("What the cluster knows about it")
    click.echo(kubectl("get", "finetunejob", demo.name, "--output", "wide", capture=True))
    show_status(
        json.loads(kubectl("get", "finetunejob", demo.name, "--output", "json", capture=True))["status"]
    )
    demo.compare(folders)

    say("The cluster is still up")
    click.echo(
        f"Look around:   export KUBECONFIG={kubeconfig}\n"
        f"               kubectl -n {NAMESPACE} get ftj,pods     (hack/cluster kubectl works without one installed)\n"
        f"               kubectl -n {NAMESPACE} describe ftj {demo.name}\n"
        f"               kubectl -n finetune-system logs deploy/finetune-operator\n"
        f"The model:     {demo.storage(folders) / 'output'}\n"
        f"Take it down:  make demo-down"
    )


def on_this_machine(demo: Demo) -> None:
    """The same job as plain processes."""
    folders = {claim: CACHE / "volumes" / claim for claim in demo.claims()}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(demo.storage(folders), ignore_errors=True)
    demo.fill(folders)
    say("The job")
    mapping = [f"--claim={claim}={folder}" for claim, folder in folders.items()]
    run("finetune", "run", MANIFEST, *mapping)
    demo.compare(folders)
    click.echo(f"\nThe model: {demo.storage(folders) / 'output'}")


def show_status(status: dict[str, Any]) -> None:
    """Conditions and checkpoints as tables."""
    console = Console()
    conditions = Table("Condition", "Status", "Reason", "Message", title="Conditions", title_justify="left")
    for condition in status["conditions"]:
        conditions.add_row(
            condition["type"], condition["status"], condition["reason"], condition.get("message", "")
        )
    console.print(conditions)
    checkpoints = Table(
        "Checkpoint", "Kind", "Epoch", "MiB", "Path", title="Checkpoints", title_justify="left"
    )
    for checkpoint in status.get("checkpoints", []):
        size = f"{checkpoint['bytes'] / 2**20:.0f}"
        epoch = f"{checkpoint.get('epoch', 0):g}"
        checkpoints.add_row(checkpoint["name"], checkpoint["kind"], epoch, size, checkpoint["path"])
    console.print(checkpoints)


def main() -> None:
    """Choose the way, say which and why, and go it."""
    start = time.monotonic()
    demo = Demo()
    obstacle = choice.cluster_obstacle()
    if os.environ.get("CLUSTER") == "none":
        say("Without a cluster, because CLUSTER=none was given: the same job as processes on this machine")
        on_this_machine(demo)
    elif obstacle and os.environ.get("CLUSTER", "auto") == "auto":
        say(f"Without a cluster ({obstacle}): the same job as processes on this machine")
        on_this_machine(demo)
    else:
        on_pods(demo)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    click.echo(f"\nDone in {minutes} min {seconds} s.")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"\nThe demo stopped: `{shlex.join(error.cmd)}` failed with exit code {error.returncode}.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. What is up stays up: `make demo-down` takes it down.")
