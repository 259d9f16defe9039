"""A web page for this machine alone: X-rays in, decisions and heat maps out."""

import base64
import html
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from threading import Lock

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pneumonia import __version__
from pneumonia.prediction.archives import LARGEST_FILE
from pneumonia.prediction.batch import SCORED, Row, score
from pneumonia.prediction.explanation import heat_map
from pneumonia.tracking.model_files import LoadedModel

_HEADERS = {
    # Nothing is loaded from elsewhere, sent elsewhere, or shown in another site's frame.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class _Sent:
    """A file that the browser sent."""

    content: bytes

    def read_bytes(self) -> bytes:
        """Its bytes."""
        return self.content

    def __str__(self) -> str:
        return ""  # the page knows its name


def create_app(model: LoadedModel, *, threshold: float | None = None, gate: bool = True) -> FastAPI:
    """Make the page and what it asks.

    ``GET /`` is the page. ``POST /classify`` takes an image file's bytes, and answers the row that
    ``predict`` would write, without its path, and ``heat_map``, a PNG as a data URI or empty.

    Args:
        model: The model.
        threshold: Lowest probability called positive, 0–1; the model's own by default.
        gate: As ``score`` takes it.

    Raises:
        UsageError: The threshold is not 0–1.
    """
    least = model.threshold(threshold)
    page = _page(model, least)
    one_at_a_time = Lock()  # the cores are the bound, and a heat map hooks into the network
    app = FastAPI(openapi_url=None)
    # Another site's name that is made to resolve to this machine is refused.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])

    def classify(content: bytes) -> Row:
        with one_at_a_time:
            ((row,),) = score(model, [_Sent(content)], threshold=least, gate=gate)
            del row["path"]
            drawn = heat_map(model, content) if row["status"] in SCORED else None
        shown = io.BytesIO()
        if drawn is not None:
            Image.fromarray(drawn).save(shown, "PNG")
        encoded = base64.b64encode(shown.getvalue()).decode()
        return row | {"heat_map": f"data:image/png;base64,{encoded}" if encoded else ""}

    @app.get("/")
    def show() -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    @app.post("/classify")
    async def answer(request: Request) -> Response:
        content = await _read(request.stream())
        if content is None:
            reason = f"the file is larger than {LARGEST_FILE // 10**6} MB"
            return JSONResponse({"reason": reason}, 413, headers=_HEADERS)
        return JSONResponse(await run_in_threadpool(classify, content), headers=_HEADERS)

    return app


async def _read(stream: AsyncIterator[bytes]) -> bytes | None:
    """All that is sent; None where it is more than any file."""
    parts, size = [], 0
    async for part in stream:
        size += len(part)
        if size > LARGEST_FILE:
            return None
        parts.append(part)
    return b"".join(parts)


def _page(model: LoadedModel, threshold: float) -> str:
    negative, positive = model.config.class_names
    template = Template(files("pneumonia.prediction").joinpath("app.html").read_text("utf-8"))
    return template.substitute(
        model=html.escape(model.uri),
        version=__version__,
        classes=f"{html.escape(negative)} and {html.escape(positive)}",
        threshold=f"{threshold:g}",
        # "</script>" in a class's name would end the script.
        positive=json.dumps(positive).replace("<", "\\u003c"),
    )
