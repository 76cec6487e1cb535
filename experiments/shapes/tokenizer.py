"""The sentencepiece vocabulary of the caption grammar, and the files a umT5 tokenizer folder holds.

    python3 tokenizer.py FOLDER        trains it and writes spiece.model, tokenizer.json and the two small configs
"""
import base64
import io
import json
import os
import struct
import sys

import sentencepiece

import generator

PAD, EOS, UNK = 0, 1, 2
CHARACTERS = ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" ".,!?;:'\"()[]|=-_/&%+")


def pieces(grammar):
    """(piece, score) of the vocabulary after the three special ones.

    Every word of the grammar is one piece and far likelier than its letters, so no word is ever split; single
    characters let any other Latin text be spelled out.  Distinct scores leave no ties.
    """
    words = [("\u2581" + word, -3.0 - 0.01 * i) for i, word in enumerate(grammar.words())]
    taken = {piece for piece, _ in words}
    letters = [c for c in ("\u2581", *CHARACTERS) if c not in taken]
    return words + [(c, -10.0 - 0.01 * i) for i, c in enumerate(letters)]


def train(folder, grammar=None):
    """Write the four files of a tokenizer folder: a unigram model with pad 0, eos 1, unk 2 and no bos.

    sentencepiece makes the container and its NFKC normalisation map; the pieces are set, not estimated, because
    an estimate from captions makes "and" out of the very frequent "a" and a rest.
    """
    grammar = grammar or generator.Grammar()
    lines = [" ".join(grammar.words())] * 100 + [f"{c} {c}{c}" for c in CHARACTERS]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=192,
        hard_vocab_limit=False, pad_id=PAD, eos_id=EOS, unk_id=UNK, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
        unk_piece="<unk>", required_chars=CHARACTERS, character_coverage=1.0, num_threads=1, minloglevel=2)
    model = replace_pieces(model.getvalue(), pieces(grammar))
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "spiece.model"), "wb") as f:
        f.write(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for word in grammar.words():
        if len(processor.encode(word)) != 1:
            raise ValueError(f"the vocabulary splits the word {word!r}: {processor.encode(word, out_type=str)}")
    write_json(folder, "tokenizer.json", fast_tokenizer(processor, model))
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder, "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", **tokens, "extra_ids": 0})
    write_json(folder, "special_tokens_map.json", tokens)


def replace_pieces(model, fresh):
    """A sentencepiece model (protobuf) with its first three pieces kept and `fresh` instead of the others."""
    kept, rest = [], []
    for number, raw, body in _fields(model):
        (kept if number == 1 else rest).append(raw)
        if number == 2:                                   # the trainer's settings end in the vocabulary size
            rest[-1] = _record(2, body + bytes([4 << 3]) + _encode(3 + len(fresh)))
    made = [_record(1, _record(1, piece.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score))
            for piece, score in fresh]
    return b"".join(kept[:3] + made + rest)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False)


def fast_tokenizer(processor, model):
    """The same model as a tokenizer.json: normaliser, metaspace split, unigram Viterbi, `</s>` at the end."""
    names = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    special = [{"id": i, "content": names[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in (PAD, EOS, UNK)]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(character_map(model)).decode()},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": metaspace,
        "post_processor": {"type": "TemplateProcessing", "single": [first, end], "pair": [first, end, second, end],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [EOS], "tokens": ["</s>"]}}},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": UNK, "byte_fallback": False,
                  "vocab": [[name, 0.0 if i <= UNK else processor.get_score(i)] for i, name in enumerate(names)]},
    }


def character_map(model):
    """The precompiled normalisation map inside a sentencepiece model (message field 3, inside it field 2)."""
    return _field(_field(model, 3), 2)


def _field(message, wanted):
    """The last length-delimited field of that number in a protobuf message."""
    return [body for number, _, body in _fields(message) if number == wanted][-1]


def _fields(message):
    """(number, raw bytes, body) of every field of a protobuf message; body only where length-delimited."""
    position, result = 0, []
    while position < len(message):
        start = position
        key, position = _varint(message, position)
        body = b""
        if key & 7 == 2:
            length, position = _varint(message, position)
            body = message[position:position + length]
            position += length
        elif key & 7 == 0:
            _, position = _varint(message, position)
        else:
            position += 8 if key & 7 == 1 else 4
        result.append((key >> 3, message[start:position], body))
    return result


def _encode(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def _record(number, body):
    return bytes([number << 3 | 2]) + _encode(len(body)) + body


def _varint(message, position):
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


class Tokenizer:
    """Captions to id rows, as the engine makes them: pieces cut to length - 1, end of sentence, zeros."""

    def __init__(self, folder):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "spiece.model"))

    def __len__(self):
        return self.processor.vocab_size()

    def encode(self, lines, length):
        """list of strings -> list of lists of `length` ids."""
        rows = [row[:length - 1] + [EOS] for row in self.processor.encode(lines)]
        return [row + [PAD] * (length - len(row)) for row in rows]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    train(sys.argv[1])
