"""Write docs/troubleshooting.md from the entries of finetune_api.reasons (`make docs`)."""

from collections.abc import Iterator
from pathlib import Path

from finetune_api.reasons import CHAPTERS, Outlook, Reason

TARGET = Path(__file__).resolve().parent.parent / "docs" / "troubleshooting.md"

HEAD = """\
<!-- Generated from crds/finetune_api/reasons by `make docs`. Do not edit. -->
# Troubleshooting

```
finetune explain NAME
```

looks at a job, its pods, their events and its queue, and says why it waits or what it failed of, what to do, and what
happens by itself ([at the terminal](cli.md#explain)). Without it, the reason is here:

```
kubectl get ftj NAME -o jsonpath='{.status.conditions[?(@.type=="Ready")]}'
kubectl describe ftj NAME
```

and this page has what each one means. `finetune explain REASON` prints the same without a cluster.
[When something goes wrong](failures.md) tells how a job comes back by itself.
"""


def rendered() -> str:
    """The text of the page."""
    lines = [HEAD]
    for chapter in CHAPTERS:
        lines += [f"## {chapter.title}\n", f"{chapter.told}\n"]
        for reason in chapter.reasons:
            lines += _entry(reason)
    return "\n".join(lines)


def _entry(reason: Reason) -> Iterator[str]:
    yield f"### {reason.word}\n"
    yield f"{reason.means}\n"
    if reason.outlook is Outlook.ACT:
        yield f"**{reason.outlook.value}**\n"
    if reason.remedy:
        yield f"- What to do: {reason.remedy}"
    if reason.by_itself:
        yield f"- By itself: {reason.by_itself}"
    if reason.remedy or reason.by_itself:
        yield ""


if __name__ == "__main__":
    TARGET.write_text(rendered())
    print(TARGET.relative_to(TARGET.parent.parent))
