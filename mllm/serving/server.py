"""A page in the browser that draws, answers and shows the codes: `semhitok serve`.

On the standard library's server, since the page is one file and the model answers one request at a
time anyway. There is no password: it listens to this machine alone unless told otherwise.

    POST /draw {prompt, negative_prompt, seed, count, guidance_scale, temperature} → {images}
    POST /vary {image, prompt, seed, count}                                       → {images}
    POST /look {image}            → {original, reconstruction, semantic, pixel, num_semantic, ...}
    POST /ask  {image, question}                                                  → {answer}

Images travel as `data:` addresses; what the user can mend comes back as {error} with status 400.
"""

import argparse
import base64
import binascii
import io
import json
import threading
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.images import MAX_FILE_SIZE, open_image, resize_and_crop
from mllm.drawing.drawer import Drawer, DrawingJob
from mllm.drawing.editing import keep_semantics
from mllm.drawing.generate import default_sampler
from mllm.model.sampler import Sampler
from mllm.saved.load import load_for_inference
from mllm.serving.answering import Answerer
from mllm.serving.code_maps import code_map
from runtime.errors import UserError

PAGE = Path(__file__).with_name("serve_page.html")
MAX_BODY = MAX_FILE_SIZE * 4 // 3 + 65_536  # an image in base64, and words beside it
MAX_COUNT = 16


class Studio:
    """What the page can do, one request at a time.

    Args:
        folder: of a unified model.
    """

    def __init__(self, folder: Path | str):
        self.model, self.processor = load_for_inference(folder)
        self.lock = threading.Lock()
        self._drawer = lru_cache(maxsize=4)(self._make_drawer)

    def _make_drawer(self, sampler: Sampler) -> Drawer:
        return Drawer(self.model, self.processor, sampler, batch_size=MAX_COUNT)

    def draw(self, request: dict) -> dict:
        """Draw a prompt."""
        sampler = default_sampler(
            self.model,
            guidance_scale=_number(request, "guidance_scale", 0, 100),
            temperature=_number(request, "temperature", 0, 100),
        )
        prompt, negative = _text(request, "prompt"), str(request.get("negative_prompt") or "")
        jobs = [DrawingJob(prompt, seed, negative) for seed in _seeds(request)]
        return {"images": self._drawn(self._drawer(sampler), jobs)}

    def vary(self, request: dict) -> dict:
        """Keep the semantic codes of an image, and draw its pixel codes anew."""
        drawer = self._drawer(default_sampler(self.model, num_candidates=1))
        codes = drawer.codes_of(_image(request))
        semantic, pixel = keep_semantics(codes, self.model.vocabulary.num_pixel_codes)
        prompt = str(request.get("prompt") or "")
        jobs = [DrawingJob(prompt, seed, "", semantic, pixel) for seed in _seeds(request)]
        return {"images": self._drawn(drawer, jobs)}

    def _drawn(self, drawer: Drawer, jobs: list[DrawingJob]) -> list[str]:
        codes = dict(drawer.draw(jobs))
        return [
            _address(drawer.pictures(codes[number].unsqueeze(0))[0]) for number in range(len(jobs))
        ]

    def look(self, request: dict) -> dict:
        """An image beside what is left of it, and the codes between."""
        drawer = self._drawer(default_sampler(self.model))
        image, config = _image(request), self.model.config.image_tokenizer_config
        size, grid = config.image_size, config.grid_size
        codes = drawer.codes_of(image)
        semantic = codes // self.model.vocabulary.num_pixel_codes
        return {
            "original": _address(resize_and_crop(image, size)),
            "reconstruction": _address(drawer.pictures(codes.unsqueeze(0))[0]),
            "semantic": _address(code_map(semantic, grid, size)),
            "pixel": _address(code_map(codes, grid, size)),
            "num_semantic": len(semantic.unique()),
            "num_codes": len(codes.unique()),
            "num_positions": len(codes),
        }

    def ask(self, request: dict) -> dict:
        """Answer a question about an image."""
        question = _text(request, "question")
        answerer = Answerer(self.model, self.processor)
        return {"answer": answerer.ask([_image(request)], [question], 64)[0]}


def _text(request: dict, key: str) -> str:
    text = request.get(key)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"The {key} is empty: write at least one word.")
    return text


def _number(request: dict, key: str, least: float, most: float) -> float | None:
    value = request.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UserError(f"The {key.replace('_', ' ')} must be a number from {least} to {most}.")
    return value


def _seeds(request: dict) -> range:
    seed = int(_number(request, "seed", 0, 2**53) or 0)
    return range(seed, seed + int(_number(request, "count", 1, MAX_COUNT) or 1))


def _image(request: dict) -> Image.Image:
    address = request.get("image")
    if not isinstance(address, str) or not address:
        raise UserError("There is no image yet: choose a file, or click a drawing.")
    try:
        data = base64.b64decode(address.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise UserError("The image did not arrive whole: choose it again.") from error
    return open_image(data)


def _address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def make_server(studio: Studio, host: str, port: int) -> ThreadingHTTPServer:
    """A server that waits for `serve_forever`.

    Raises:
        UserError: if the address cannot be listened to.
    """
    actions: dict[str, Callable[[dict], dict]] = {
        "/draw": studio.draw,
        "/vary": studio.vary,
        "/look": studio.look,
        "/ask": studio.ask,
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/":
                self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
            else:
                self._send(404, "text/plain", b"not found")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MAX_BODY:
                self.close_connection = True
                return self._send_json(413, {"error": "The image is too large."})
            body = self.rfile.read(int(length))
            # Other sites' pages can send forms here, but not JSON: browsers ask us first.
            is_json = self.headers.get_content_type() == "application/json"
            if self.path not in actions or not is_json:
                return self._send_json(404, {"error": "There is nothing at this address."})
            try:
                request = json.loads(body)
                if not isinstance(request, dict):
                    raise UserError("The request is no JSON object.")
                with studio.lock:
                    self._send_json(200, actions[self.path](request))
            except UserError as error:
                self._send_json(400, {"error": str(error)})
            except (ValueError, RecursionError) as error:
                self._send_json(400, {"error": f"The request makes no sense: {error}"})

        def _send_json(self, status: int, value: dict) -> None:
            self._send(status, "application/json", json.dumps(value).encode())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the page itself shows what happens."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {host}:{port} ({reason}); choose another --port"
        ) from error


def command(args: argparse.Namespace) -> None:
    """`semhitok serve`: until interrupted."""
    server = make_server(Studio(args.model), args.host, args.port)
    print(f"open http://{args.host}:{server.server_address[1]} (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()
