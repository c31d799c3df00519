"""What the kubelet and Prometheus ask: /healthz and /metrics, plain HTTP."""

from aiohttp import web

from finetune_operator.monitoring.metrics import Metrics
from finetune_operator.monitoring.watch_health import WatchHealth


def health_application(health: WatchHealth, metrics: Metrics) -> web.Application:
    """The web application for probes and scrapes."""

    async def healthz(_: web.Request) -> web.Response:
        if dead := health.dead():
            return web.Response(status=503, text="\n".join(dead) + "\n")
        return web.Response(text="ok\n")

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=await metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/metrics", scrape)
    return application
