"""``pneumonia app``: the page, and what it asks."""

import asyncio
import base64
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
import requests
import uvicorn
from click.testing import Result
from PIL import Image

from pneumonia.prediction import app as app_module
from pneumonia.prediction.app import create_app
from pneumonia.tracking.models import load_model
from pneumonia.tracking.store import connect
from pneumonia.workflows.predict import predict

Cli = Callable[..., Result]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def served(trained: SimpleNamespace) -> Iterator[str]:
    """The address of the app in a thread of this process."""
    connect(trained.tracking_uri)
    app = create_app(load_model("models:/resnet34/1"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who asks before the server is there waits
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def classify(served: str, content: bytes) -> dict[str, object]:
    answer = requests.post(f"{served}/classify", content, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()  # type: ignore[no-any-return]


def test_an_image_is_answered_as_predict_answers_with_a_heat_map(
    served: str, trained: SimpleNamespace, xrays: Path
) -> None:
    files = sorted(xrays.glob("val/*/*"))[:6]
    connect(trained.tracking_uri)
    rows = predict(load_model("models:/resnet34/1"), files)
    for file, expected in zip(files, rows, strict=True):
        row = classify(served, file.read_bytes())
        drawn = str(row.pop("heat_map"))
        del expected["path"]
        assert row == pytest.approx(expected)
        if expected["probability"] is None:
            assert not drawn
            continue
        png = base64.b64decode(drawn.removeprefix("data:image/png;base64,"))
        assert Image.open(io.BytesIO(png)).size == (512, 512)


def test_what_is_no_xray_gets_no_probability_and_a_reason(served: str) -> None:
    for content in (b"", b"garbage", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        row = classify(served, content)
        assert (row["status"], row["probability"], row["heat_map"]) == ("error", None, "")
        assert row["reason"]
    photograph = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(photograph).resize((600, 600)).save(encoded, "PNG")
    row = classify(served, encoded.getvalue())
    assert (row["status"], row["probability"], row["heat_map"]) == ("rejected", None, "")


def test_images_sent_at_once_are_each_answered(served: str, xrays: Path) -> None:
    file = next(xrays.glob("val/NORMAL/*")).read_bytes()
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(classify(served, file)["sha256"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert len(set(answers)) == 1


def test_more_than_any_file_is_refused(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "LARGEST_FILE", 1_000_000)
    answer = requests.post(f"{served}/classify", bytes(1_000_001), timeout=60)
    assert answer.status_code == 413
    assert answer.json() == {"reason": "the file is larger than 1 MB"}


def test_the_page_loads_nothing_and_answers_to_no_other_name(served: str) -> None:
    answer = requests.get(served, timeout=60)
    assert "Not a medical device" in answer.text
    assert "models:/resnet34/1" in answer.text
    assert not re.search(r"https?:|//[a-z]", answer.text.replace("// a browser", ""))
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    named = requests.get(served, headers={"Host": "attacker.example"}, timeout=60)
    assert named.status_code == 400
    assert requests.get(f"{served}/docs", timeout=60).status_code == 404


def test_a_port_in_use_is_told_before_the_model_is_read(run_cli: Cli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = run_cli("app", "--model-uri", "models:/none/1", "--port", port)
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
    assert f"--port {port + 1}" in result.stderr


@pytest.mark.slow
def test_the_command_prints_its_link_and_stops_when_asked(trained: SimpleNamespace) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pneumonia", "app", "--model-uri", "models:/resnet34/1"]
    command += ["--tracking-uri", trained.tracking_uri, "--port", str(port)]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert app.stdout is not None
        link = app.stdout.readline().strip()
        assert link == f"http://127.0.0.1:{port}"
        assert requests.get(link, timeout=60).ok  # the socket waits until the server is there
        app.send_signal(signal.SIGINT)
        _, stderr = app.communicate(timeout=60)
        assert app.returncode == 130
        assert "Traceback" not in stderr
    finally:
        app.kill()


class Browser:
    """Chromium, spoken to over its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.sent = 0

    async def ask(self, method: str, **parameters: object) -> dict[str, object]:
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": parameters})
        while (answer := await self.socket.receive_json()).get("id") != self.sent:
            pass
        assert "error" not in answer, answer
        return answer["result"]  # type: ignore[no-any-return]

    async def evaluate(self, script: str) -> object:
        result = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return result["result"].get("value")  # type: ignore[attr-defined]

    async def until(self, condition: str) -> None:
        script = f"""new Promise(resolve => {{
            const look = () => ({condition}) ? resolve() : setTimeout(look, 50);
            look();
        }})"""
        await self.ask("Runtime.evaluate", expression=script, awaitPromise=True)


async def drop_files(port: int, url: str, files: list[Path], picture: Path) -> list[str]:
    """Open a page, give it files, and return the text of its items once all are there."""
    async with aiohttp.ClientSession() as session:
        new = f"http://127.0.0.1:{port}/json/new?{url}"
        async with session.put(new) as answer:
            where = (await answer.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(where, max_msg_size=0) as connected:
            browser = Browser(connected)
            while not await browser.evaluate("document.querySelector('ol') !== null"):  # noqa: ASYNC110 - it loads
                await asyncio.sleep(0.1)
            root = await browser.ask("DOM.getDocument")
            node = root["root"]["nodeId"]  # type: ignore[index]
            found = await browser.ask("DOM.querySelector", nodeId=node, selector="input")
            names = [str(file) for file in files]
            await browser.ask("DOM.setFileInputFiles", files=names, nodeId=found["nodeId"])
            await browser.until(f"document.querySelectorAll('li').length === {len(files)}")
            await browser.until("[...document.images].every(image => image.complete)")
            shot = await browser.ask("Page.captureScreenshot", captureBeyondViewport=True)
            await asyncio.to_thread(picture.write_bytes, base64.b64decode(str(shot["data"])))
            script = "JSON.stringify([...document.querySelectorAll('li')].map(i => i.innerText))"
            return json.loads(str(await browser.evaluate(script)))  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_shows_decisions_and_reasons(served: str, xrays: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(b"garbage")
    images = [*sorted(xrays.glob("val/NORMAL/*"))[:2], next(xrays.glob("val/PNEUMONIA/*"))]
    profile = tmp_path / "profile"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1100"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as chromium:
        try:
            port_file = profile / "DevToolsActivePort"
            deadline = time.monotonic() + 60
            while not (port_file.exists() and port_file.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            port = int(port_file.read_text().split()[0])
            dropping = drop_files(port, served, [*images, broken], tmp_path / "page.png")
            items = asyncio.run(asyncio.wait_for(dropping, 120))
        finally:
            chromium.kill()
    assert len(items) == 4
    assert items[0].startswith("error")
    assert "not a JPEG" in items[0]
    assert broken.name in items[0]
    for item, file in zip(items[1:], reversed(images), strict=True):
        assert file.name in item
        if "probability" in item:
            assert item.index("evidence for PNEUMONIA") < item.index("threshold")
        else:
            assert "rejected:" in item
    assert Image.open(tmp_path / "page.png").width > 900  # without the scroll bar
