"""Questions and drawings as token ids, through the chat template of the language model itself."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat

from transformers import PreTrainedTokenizerBase

from data_pipelines.records import IMAGE_MARK
from runtime.errors import UserError
from runtime.files import is_whole_text

BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE = "<|image_begin|>", "<|image_end|>", "<|image|>"
IMAGE_TOKENS = (BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE)
IMAGE_WITH_ENDS = BEGIN_OF_IMAGE + IMAGE + END_OF_IMAGE

# For language models built from nothing; a pre-trained one brings its own.
USER, ASSISTANT = "<|user|>", "<|assistant|>"
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}"
    "{% else %}<|assistant|>{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ChatEncoder:
    """Renders chats to token ids; image positions stay placeholders until codes are put in.

    Args:
        text_tokenizer: of the language model, with a chat template and the image tokens.
        num_image_positions: N, placeholders per image.
    """

    def __init__(self, text_tokenizer: PreTrainedTokenizerBase, num_image_positions: int):
        self.text_tokenizer, self.num_image_positions = text_tokenizer, num_image_positions
        # Data sets repeat few questions often; rendering a template costs 0.1 ms each time.
        self._render = lru_cache(maxsize=100_000)(self._render_uncached)
        convert = text_tokenizer.convert_tokens_to_ids
        self.begin_of_image_id, self.end_of_image_id, self.image_id = convert(list(IMAGE_TOKENS))
        # Spellings that mean something else than themselves: ends of turns, roles, images.
        added = text_tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        known = {*special, *text_tokenizer.all_special_tokens, *IMAGE_TOKENS}
        self._control = tuple(sorted(known))

    def _render_uncached(self, user: str, assistant: str | None) -> tuple[int, ...]:
        messages = [{"role": "user", "content": user}]
        if assistant is not None:
            messages.append({"role": "assistant", "content": assistant})
        return tuple(self._ids(messages, assistant is None))

    def _ids(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        text = self.text_tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )
        if not is_whole_text(text):
            raise UserError("the text contains an unpaired surrogate; remove it")
        token_ids: list[int] = self.text_tokenizer(text, add_special_tokens=False)["input_ids"]
        return token_ids

    @staticmethod
    def _refuse_rewriting(prompt: Sequence[int], whole: Sequence[int]) -> None:
        if whole[: len(prompt)] != prompt:
            raise ValueError(
                "the chat template writes a question that has an answer differently from one that "
                "has none, so answers cannot be told from prompts; use another template"
            )

    def most_tokens(self, messages: Sequence[str], num_images: int) -> int:
        """At least as many tokens as a chat of some messages about some images takes."""
        num_bytes = sum(len(message.encode()) for message in messages)
        frame = len(self._render("a", "a"))
        images = num_images * (self.num_image_positions + 2)
        return num_bytes + (len(messages) + 1) * frame + images

    def length(self, token_ids: Sequence[int]) -> int:
        """Tokens with N for each image, of ids with one."""
        return len(token_ids) + (self.num_image_positions - 1) * token_ids.count(self.image_id)

    def expand(
        self, token_ids: Sequence[int], images: Iterable[Sequence[int]] | None = None
    ) -> list[int]:
        """Put N token ids where an image stands: those of `images` in order, or N placeholders."""
        placeholder = [self.image_id] * self.num_image_positions
        rest = repeat(placeholder) if images is None else iter(images)
        expanded: list[int] = []
        for token_id in token_ids:
            expanded += next(rest) if token_id == self.image_id else [token_id]
        return expanded

    def question(self, question: str) -> list[int]:
        """Prompt of a question about one image: the image first, then the text."""
        return self.expand(self.question_ids(question))

    def question_ids(self, question: str) -> tuple[int, ...]:
        """The same with one placeholder for the whole image."""
        return self._render(IMAGE_WITH_ENDS + clean(question, self._control), None)

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Prompt of a conversation in which the assistant speaks next.

        Args:
            messages: "role" (system, user or assistant) and "content", with an `<image>` wherever
                an image is shown.
        """
        rendered = [self._message(message["role"], message["content"]) for message in messages]
        template = self.text_tokenizer.chat_template or ""
        if rendered[0]["role"] == "system" and "system" not in template and len(rendered) > 1:
            # A template without a system turn: its text goes before the first question.
            first, second = rendered[:2]
            both = f"{first['content']}\n{second['content']}"
            rendered[:2] = [{"role": second["role"], "content": both}]
        return self.expand(self._ids(rendered, True))

    def _message(self, role: str, content: str) -> dict[str, str]:
        cleaned = clean(content, self._control).replace(IMAGE_MARK, IMAGE_WITH_ENDS)
        return {"role": role, "content": cleaned}

    def answer(self, question: str, answer: str) -> list[int]:
        """What the assistant writes after `question`, up to and with the token that ends it."""
        asked = IMAGE_WITH_ENDS + clean(question, self._control)
        prompt = self._render(asked, None)
        whole = self._render(asked, clean(answer, self._control))
        self._refuse_rewriting(prompt, whole)
        return self._until_end(list(whole[len(prompt) :]))

    def conversation(self, messages: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Several turns, as they follow one another.

        Args:
            messages: (role, content), with `IMAGE_MARK` where an image stands; nothing after the
                last answer is read.

        Returns:
            Token ids of each answer's prompt and of the answer, with one placeholder for each
            image; answers end with the token that ends a turn. Where the template changes an
            earlier turn once another follows (Qwen3 drops its reasoning), that turn is part of the
            next prompt.
        """
        said = [self._message(role, content) for role, content in messages]
        turns: list[tuple[list[int], list[int]]] = []
        done: list[int] = []
        for number, message in enumerate(said):
            if message["role"] != "assistant":
                continue
            prompt, whole = self._ids(said[:number], True), self._ids(said[: number + 1], False)
            self._refuse_rewriting(prompt, whole)
            if prompt[: len(done)] != done:
                turns, done = [], []
            answer = self._until_end(whole[len(prompt) :])
            turns.append((prompt[len(done) :], answer))
            done = prompt + answer
        return turns

    def text(self, text: str) -> list[int]:
        """Plain text as the language model was pre-trained on it, up to and with its end."""
        end = self.text_tokenizer.eos_token_id
        token_ids: list[int] = self.text_tokenizer(clean(text, self._control))["input_ids"]
        return token_ids if token_ids[-1:] == [end] else [*token_ids, end]

    def is_rendered(self, text: str) -> bool:
        """Whether a text has control tokens of its own: a whole prompt, not what a user says."""
        return any(token in text for token in self._control)

    def rendered(self, text: str) -> list[int]:
        """Ids of a prompt that is rendered already, with N placeholders for each image."""
        return self.expand(self.text_tokenizer(text, add_special_tokens=False)["input_ids"])

    def content(self, content: str | Sequence[dict]) -> str:
        """One message's content, cleaned, with the marks of its images."""
        if isinstance(content, str):
            return clean(content, self._control)
        return "".join(
            IMAGE_WITH_ENDS if part["type"] == "image" else clean(part["text"], self._control)
            for part in content
        )

    def drawing(self, caption: str) -> list[int]:
        """Prompt of a drawing, up to and with the begin-of-image token; "" for no caption."""
        return [*self._render(clean(caption, self._control), None), self.begin_of_image_id]

    def drawing_end(self) -> list[int]:
        """What closes a drawing: the end-of-image token and the end of the turn."""
        return [self.end_of_image_id, self.text_tokenizer.eos_token_id]

    def _until_end(self, token_ids: list[int]) -> list[int]:
        end = self.text_tokenizer.eos_token_id
        # Templates may add a line break after the end of a turn, which no answer needs to learn.
        return token_ids[: token_ids.index(end) + 1] if end in token_ids else [*token_ids, end]


def clean(text: str, control: tuple[str, ...] = IMAGE_TOKENS) -> str:
    """User text without control tokens: text cannot forge an image, nor somebody else's turn."""
    while any(token in text for token in control):  # "<|im<|image|>age|>" hides another
        for token in control:
            text = text.replace(token, "")
    return text.strip()
