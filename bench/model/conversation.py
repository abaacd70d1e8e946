"""Conversations as token ids: the chat template of a tokenizer, or plain turns where it has none. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.model.files import ModelFiles

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``; or alone a ``{"role": "text"}``, which no template is laid
over."""

OPTION_CONTEXT = 200
"""Characters of a prompt's end with which an option is tokenised; more take longer and change nothing."""


def _after(start: Sequence[int], rows: Sequence[Sequence[int]]) -> list[list[int]] | None:
    """What comes after `start` in every row; None where a row begins otherwise or ends with it."""
    n = len(start)
    if any(list(row[:n]) != list(start) or len(row) == n for row in rows):
        return None
    return [list(row[n:]) for row in rows]


def _is_plain(messages: Sequence[Message]) -> bool:
    return messages[0]["role"] == "text"


class Conversations:
    """What turns the texts of one model into its tokens and back into the place where an answer begins."""

    tokenizer: Any
    """As transformers' ``AutoTokenizer`` loads it."""
    end_ids: Collection[int]
    """The tokens that end an answer."""
    before_answer: str = " "
    """Without a chat template: what stands between a prompt and its answer."""

    @classmethod
    def of(cls, files: ModelFiles) -> Conversations:
        """Those of a model whose weights are not loaded. Raises whatever transformers does for a tokenizer that it cannot load."""
        from transformers import AutoTokenizer

        found = cls()
        found.tokenizer = AutoTokenizer.from_pretrained(**files.tokenizer_arguments)
        found.end_ids = {found.tokenizer.eos_token_id}
        return found

    def _text(self, messages: Sequence[Message]) -> str:
        """The conversation as text; where the last turn is the user's, with the start of an answer."""
        if _is_plain(messages):
            return messages[0]["content"]
        asks = messages[-1]["role"] == "user"
        if self.tokenizer.chat_template:
            return str(
                self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks, enable_thinking=False)
            )
        parts = [m["content"] + "\nAnswer:" if m["role"] == "user" else f" {m['content']}\n\n" for m in messages]
        return "".join(parts)

    def _ids(self, texts: Sequence[str], whole: bool = True, plain: bool = False) -> list[list[int]]:
        """Token ids of texts; of one that is not `whole`, a part of a prompt, without special tokens. `plain`: in no template."""
        # A chat template writes the special tokens itself; plain text gets the tokenizer's own.
        special = whole and (plain or not self.tokenizer.chat_template)
        return [list(ids) for ids in self.tokenizer(list(texts), add_special_tokens=special)["input_ids"]] if texts else []

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that ends with a user turn, up to where the answer begins."""
        return self.prompts_ids([messages])[0]

    def prompts_ids(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """`prompt_ids` of many conversations at once."""
        plain = bool(conversations) and _is_plain(conversations[0])  # all are of one task
        rows = self._ids([self._text(messages) for messages in conversations], plain=plain)
        return [self._open(ids, plain) for ids in rows]

    def _open(self, ids: list[int], plain: bool = False) -> list[int]:
        # Tokenizers that close every text with an end token would end the answer before it begins.
        return ids[:-1] if ids and ids[-1] in self.end_ids and (plain or not self.tokenizer.chat_template) else ids

    def option_ids(
        self, conversations: Sequence[Sequence[Message]], prompts: Sequence[Sequence[int]], options: Sequence[Sequence[str]]
    ) -> list[list[list[int]]]:
        """Token ids of each conversation's options as answers, without an end token: those that come after `prompts`, its own."""
        plain = bool(conversations) and _is_plain(conversations[0])
        between = self.before_answer if plain else "" if self.tokenizer.chat_template else " "
        heads = [self._text(messages) for messages in conversations]
        # The end of a prompt is enough of it where it is tokenised as it is in the whole. It begins with a space: before anything else,
        # many tokenizers would put one.
        ends = [head[start:] if (start := head.find(" ", max(0, len(head) - OPTION_CONTEXT))) > 0 else head for head in heads]
        tails = self._ids(ends, whole=False)
        joined = [end + between + option for end, each in zip(ends, options, strict=True) for option in each]
        together = iter(self._ids(joined, whole=False))
        found = []
        for head, prompt, each, tail in zip(heads, prompts, options, tails, strict=True):
            rows = [next(together) for _ in each]
            ids = _after(tail, rows) if tail == list(prompt[-len(tail) :]) else None
            if ids is None:
                wholes = self._ids([head + between + option for option in each], plain=plain)
                rows = [self._open(row, plain) for row in wholes]
                # Where a token spans the border, an option is what comes after as many tokens as the prompt has in a task laid out as
                # lm-evaluation-harness does, which counts so; else it is tokenised on its own.
                ids = [row[len(prompt) :] for row in rows] if plain else _after(prompt, rows)
            found.append(ids if ids is not None and all(ids) else self._ids([between + option for option in each], whole=False))
        return found

    def training_ids(self, messages: Sequence[Message], answer: str) -> tuple[list[int], int]:
        """Token ids of a conversation with its answer and end token, and how many of them are prompt.

        Prompt and answer are tokenised together where that leaves the prompt's tokens as they are in `prompt_ids`, since
        an answer tokenised apart can differ from what the model would have to generate.
        """
        prompt = self.prompt_ids(messages)
        end = self.tokenizer.eos_token or ""
        head = self._text(messages)
        full = self._text([*messages, {"role": "assistant", "content": answer}])
        plain = _is_plain(messages)
        if plain:
            full = head + self.before_answer + answer + end
        elif not self.tokenizer.chat_template:
            full = full.rstrip("\n") + "\n"
        if not full.startswith(head):
            full = head + answer + end
        (ids,) = self._ids([full], plain=plain)
        if ids[: len(prompt)] != prompt:
            ids = prompt + list(self.tokenizer(full[len(head) :], add_special_tokens=False)["input_ids"])
        if self.tokenizer.chat_template:
            # What a template writes after the end token (a newline, say) is never generated.
            cut = next((i for i in range(len(prompt), len(ids)) if ids[i] in self.end_ids), len(ids) - 1)
            ids = ids[: cut + 1]
        return ids, len(prompt)

    def text_ids(self, text: str) -> tuple[list[int], int]:
        """Token ids of a plain text to train on, all of it to be predicted but the first token."""
        ids = list(self.tokenizer(text, add_special_tokens=True)["input_ids"])
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if start is not None and ids[:1] != [start]:
            ids = [start, *ids]
        return ids if end is None or ids[-1] == end else [*ids, end], 1
