"""The page's web server: files, and views as JSON. It only ever reads, and answers only to browsers on this machine."""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from importlib import resources
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from finetune_api.scalars import DNS_LABEL
from finetune_operator.api import ApiError
from finetune_operator.cluster import Cluster
from finetune_operator.kinds import Key
from finetune_operator.observation.reading import UnreadableStatusError
from finetune_operator.page.overview import View
from finetune_operator.page.reader import Reader

logger = logging.getLogger(__name__)

# Where it listens: whoever may forward a port to the pod gets here, and nobody else.
HOST = "127.0.0.1"
# What a browser calls the forwarded port. By another name, a web site would read the page through its visitor's browser
# (DNS rebinding).
HOSTS = ("localhost", "127.0.0.1", "::1")
# As the API server has them: nothing else may become part of a path there.
NAMESPACE = f"{{namespace:{DNS_LABEL}}}"
NAME = f"{{name:{DNS_LABEL}}}"
FILES = {
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/main.js": ("main.js", "text/javascript"),
    "/chart.js": ("chart.js", "text/javascript"),
    "/dom.js": ("dom.js", "text/javascript"),
    "/job.js": ("job.js", "text/javascript"),
    "/overview.js": ("overview.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # To be asked for every time; what has not changed is not sent again (ETag).
    "Cache-Control": "no-cache",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def page_application(cluster: Cluster) -> web.Application:
    """The web application of the page."""
    reader = Reader(cluster)
    application = web.Application(middlewares=[_guard])

    async def overview(request: web.Request) -> web.Response:
        return _json(request, await reader.overview(request.query.get("namespace")))

    async def job(request: web.Request) -> web.Response:
        key = Key(request.match_info["namespace"], request.match_info["name"])
        view = await reader.job(key)
        if view is None:
            raise web.HTTPNotFound(text=f"there is no FineTuneJob {key}, or it is not this operator's")
        return _json(request, view)

    get = application.router.add_get
    get("/", _file("index.html", "text/html"))
    get(f"/namespaces/{NAMESPACE}/finetunejobs/{NAME}", _file("index.html", "text/html"))
    for path, (name, content_type) in FILES.items():
        get(path, _file(name, content_type))
    get("/api/v1/finetunejobs", overview)
    get(f"/api/v1/namespaces/{NAMESPACE}/finetunejobs/{NAME}", job)
    return application


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        if not _is_local(request.headers.get("Host", "")):
            # 421, Misdirected Request, for which aiohttp has no name.
            response: web.StreamResponse = web.Response(status=421, text=f"open it as one of {HOSTS}\n")
        elif request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(
                request.method, ("GET", "HEAD"), text="nothing can be changed here\n"
            )
        else:
            response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    except UnreadableStatusError as error:
        response = web.Response(status=503, text=f"{error}\n")
    except (ApiError, aiohttp.ClientError, TimeoutError) as error:
        logger.warning("%s could not be filled: %s", request.path, error)
        response = web.Response(status=503, text="the API server cannot be asked just now\n")
    response.headers.update(HEADERS)
    return response


def _is_local(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in HOSTS
    except ValueError:
        return False


def _file(name: str, content_type: str) -> Handler:
    body = resources.files(__package__).joinpath("static", name).read_bytes()

    async def send(request: web.Request) -> web.Response:
        return _answer(request, body, content_type)

    return send


def _json(request: web.Request, view: View) -> web.Response:
    body = json.dumps(view, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return _answer(request, body, "application/json")


def _answer(request: web.Request, body: bytes, content_type: str) -> web.Response:
    etag = hashlib.sha256(body).hexdigest()[:32]
    known = request.if_none_match or ()
    if any(one.value in (etag, "*") for one in known):
        response = web.Response(status=304)
    else:
        response = web.Response(body=body, content_type=content_type, charset="utf-8")
    response.etag = etag
    return response
