"""The operator with a guard taken away: each is done in its process before it starts, and has to be noticed."""

from typing import Any

from chaos.story import hurried


def attempts_have_random_names() -> None:
    """Whoever repeats a start after a crash does not find what there is already."""
    import secrets

    from finetune_operator import workload

    hurried()
    job = vars(workload)["_job"]

    def renamed(*arguments: Any, **named: Any) -> Any:
        manifest = job(*arguments, **named)
        manifest["metadata"]["name"] += f"-{secrets.token_hex(2)}"
        return manifest

    vars(workload)["_job"] = renamed


def deletes_without_uid() -> None:
    """Whatever has the name by now is deleted."""
    from finetune_operator.api import Api

    hurried()
    request = Api.request

    async def careless(self: Api, method: str, path: str, **named: Any) -> Any:
        if method == "DELETE":
            named["body"].pop("preconditions", None)
        return await request(self, method, path, **named)

    vars_of(Api, request=careless)


def terminal_is_left() -> None:
    """A job that is over is looked at as if it were not."""
    from finetune_api.status import Phase

    hurried()
    vars_of(Phase, is_terminal=False)


def vars_of(kind: type[Any], **members: Any) -> None:
    """Give a class other members."""
    for name, member in members.items():
        setattr(kind, name, member)
