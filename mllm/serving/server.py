"""A page in the browser that draws, answers and shows the codes: `semhitok serve`.

On the standard library's server, since the page is one file and the model answers one request at a
time anyway. There is no password: it listens to this machine alone unless told otherwise.

    POST /draw {prompt, negative_prompt, seed, count, guidance_scale, temperature} → {images}
    POST /vary {image, prompt, seed, count}                                       → {images}
    POST /look {image}            → {original, reconstruction, semantic, pixel, num_semantic, ...}
    POST /ask  {image, question}                                                  → {answer}

Images travel as `data:` addresses; what the user can fix comes back as {error} with status 400.
"""

import base64
import binascii
import colorsys
import io
import json
import re
import sys
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from torch import Tensor

from data_pipelines.images import MAX_FILE_SIZE, open_image, resize_and_crop
from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.sampler import Sampler, model_sampler
from mllm.saved.load import load_for_inference
from mllm.serving.answering import Answerer
from mllm.serving.edit import keep_semantics
from mllm.serving.settings import ServeSettings
from runtime.errors import UserError
from runtime.settings import build_settings

PAGE = Path(__file__).with_name("serve_page.html")
MAX_BODY = MAX_FILE_SIZE * 4 // 3 + 65_536  # an image in base64, and words beside it
MAX_COUNT = 16
GOLDEN = 0.6180339887498949  # its multiples mod 1 are spread as evenly as any sequence's
MAX_NEW_TOKENS = 64
SECONDS_TO_SEND = 60  # a body that takes longer between two parts is given up


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
        own = model_sampler(self.model.config.image_sampler, sampler)
        return Drawer(self.model, self.processor, own, batch_size=MAX_COUNT)

    def draw(self, request: dict) -> dict:
        """Draw a prompt."""
        numbers = {
            name: _number(request, name, 0, 100) for name in ("guidance_scale", "temperature")
        }
        given = {name: number for name, number in numbers.items() if number is not None}
        sampler = build_settings(Sampler, given, "the request")
        prompt, negative = _text(request, "prompt"), str(request.get("negative_prompt") or "")
        requests = [ImageRequest(prompt, seed, negative) for seed in _seeds(request)]
        return {"images": self._drawn(self._drawer(sampler), requests)}

    def vary(self, request: dict) -> dict:
        """Keep the semantic codes of an image, and draw its pixel codes anew."""
        drawer = self._drawer(Sampler(num_candidates=1))
        codes = drawer.codes_of(_image(request))
        kept = keep_semantics(codes, self.model.vocabulary.num_pixel_codes)
        prompt = str(request.get("prompt") or "")
        requests = [ImageRequest(prompt, seed, kept=kept) for seed in _seeds(request)]
        return {"images": self._drawn(drawer, requests)}

    def _drawn(self, drawer: Drawer, requests: list[ImageRequest]) -> list[str]:
        codes = dict(drawer.draw(requests))
        ordered = [codes[index].unsqueeze(0) for index in range(len(requests))]
        return [_address(drawer.pictures(each)[0]) for each in ordered]

    def look(self, request: dict) -> dict:
        """An image beside what is left of it, and the codes between."""
        drawer = self._drawer(Sampler())
        image, config = _image(request), self.model.config.image_tokenizer_config
        size, grid = config.image_size, config.grid_size
        codes = drawer.codes_of(image)
        semantic = codes // self.model.vocabulary.num_pixel_codes
        return {
            "original": _address(resize_and_crop(image, size)),
            "reconstruction": _address(drawer.pictures(codes.unsqueeze(0))[0]),
            "semantic": _address(_code_map(semantic, grid, size)),
            "pixel": _address(_code_map(codes, grid, size)),
            "num_semantic": len(semantic.unique()),
            "num_codes": len(codes.unique()),
            "num_positions": len(codes),
        }

    def ask(self, request: dict) -> dict:
        """Answer a question about an image."""
        question = _text(request, "question")
        answerer = Answerer(self.model, self.processor)
        return {"answer": answerer.ask([_image(request)], [question], MAX_NEW_TOKENS)[0]}


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


def _code_map(codes: Tensor, grid_size: int, image_size: int) -> Image.Image:
    """A picture of (N,) codes, row-major, as large as the image that they stand for: patches of one
    code have one colour, different codes hardly ever the same."""
    patches = np.array([_colour(code) for code in codes.tolist()], dtype=np.uint8)
    small = Image.fromarray(patches.reshape(grid_size, grid_size, 3))
    return small.resize((image_size, image_size), Image.Resampling.NEAREST)


def _colour(code: int) -> tuple[int, ...]:
    hue, saturation, value = (code * GOLDEN**power % 1 for power in (1, 2, 3))
    colour = colorsys.hsv_to_rgb(hue, 0.45 + 0.45 * saturation, 0.6 + 0.4 * value)
    return tuple(round(255 * part) for part in colour)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has left."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def make_server(studio: Studio, host: str, port: int) -> ThreadingHTTPServer:
    """A server that waits for `serve_forever`.

    Raises:
        UserError: if the address cannot be listened to.
    """
    actions = {"/draw": studio.draw, "/vary": studio.vary, "/look": studio.look, "/ask": studio.ask}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = SECONDS_TO_SEND

        def do_GET(self) -> None:
            if urlsplit(self.path).path == "/":
                self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
            else:
                self._send(404, "text/plain", b"not found")

        def do_POST(self) -> None:
            body = self._body()
            if body is None:
                return
            # Other sites' pages can send forms here, but not JSON: browsers ask us first.
            is_json = self.headers.get_content_type() == "application/json"
            action = actions.get(urlsplit(self.path).path)
            if action is None or not is_json:
                return self._send_json(404, {"error": "There is nothing at this address."})
            try:
                request = json.loads(body)
                if not isinstance(request, dict):
                    raise UserError("The request is no JSON object.")
                with studio.lock:
                    reply = action(request)
            except UserError as error:
                return self._send_json(400, {"error": str(error)})
            except (ValueError, RecursionError) as error:
                return self._send_json(400, {"error": f"The request makes no sense: {error}"})
            self._send_json(200, reply)

        def _body(self) -> bytes | None:
            """What was sent; None where that was refused."""
            length = self.headers.get("Content-Length", "")
            if not re.fullmatch(r"[0-9]{1,15}", length):
                self.close_connection = True
                self._send_json(411, {"error": "The request does not say how long it is."})
                return None
            if int(length) <= MAX_BODY:
                return self.rfile.read(int(length))
            # A client reads the answer only once it has sent everything: take it in, in parts.
            left = int(length)
            while left > 0 and (part := self.rfile.read(min(left, 2**16))):
                left -= len(part)
            self.close_connection = True
            self._send_json(413, {"error": "The image is too large."})
            return None

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
        return _Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {host}:{port} ({reason}); choose another --port"
        ) from error


def serve(settings: ServeSettings) -> None:
    """Serve the page until interrupted.

    Raises:
        UserError: if the folder holds no whole model, or the address cannot be listened to.
    """
    server = make_server(Studio(settings.model), settings.host, settings.port)
    print(f"open http://{settings.host}:{server.server_address[1]} (Ctrl-C ends it)", flush=True)
    with server:
        server.serve_forever()
