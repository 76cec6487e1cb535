#!/usr/bin/env python3
"""Makes the files of this folder: a vocabulary of about 300 pieces trained on a few sentences, the same as
tokenizer.json, and what the Python packages sentencepiece and tokenizers say about some texts. See README.md."""
import base64
import json
import os

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

SUBJECTS = ["a man", "a woman", "two men", "two people", "a dog", "a cat", "the painter", "a red circle",
            "a blue square"]
VERBS = ["kiss", "dances with", "runs near", "looks at", "turns around", "moves left of", "grows beside", "hugs"]
PLACES = ["in the garden", "near a tree", "in the rain", "at the café", "on a bridge", "by the sea (at night)"]
TEXTS = [
    "", "a man", "two people kiss in the garden", "a dog, a cat.", "zebra quartz", "“two” people", "ａ ｍａｎ ﬁsh ㎞",
    "cafe\u0301 caf\u00e9", "😀 👍 a man", "a man 😀😀 runs", "东京 a cat", "the </s> end", "<pad>", "a<extra_id_0>man",
    "<extra_id_1> <extra_id_12>", "(two people:1.5) [shot cut]", "aaaa zzz",
    "a man kiss a woman near a tree, two people look at the painter in the rain, a red circle grows beside a blue "
    "square, a dog runs near the sea, the cat moves left of a bridge at night, a woman hugs the painter in the garden",
]


def rules(path):
    pairs = [(chr(0xFF01 + i), chr(0x21 + i)) for i in range(94)]
    pairs += [("\uFB01", "fi"), ("\u339E", "km"), ("e\u0301", "\u00e9"), ("\u3000", " "), ("\u00a0", " ")]
    pairs += [("\u200d", "")]
    with open(path, "w", encoding="utf-8") as f:
        for a, b in pairs:
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")


def main():
    with open("corpus.txt", "w", encoding="utf-8") as f:
        for s in SUBJECTS:
            for v in VERBS:
                for p in PLACES:
                    f.write(f"{s} {v} {SUBJECTS[(len(s) + len(v)) % len(SUBJECTS)]} {p}.\n")
    rules("rules.tsv")
    sentencepiece.SentencePieceTrainer.train(
        input="corpus.txt", model_prefix="spiece", vocab_size=410, model_type="unigram", pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, normalization_rule_tsv="rules.tsv", byte_fallback=True, hard_vocab_limit=False, minloglevel=2)
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(open("spiece.model", "rb").read())
    added = [(i, p.piece) for i, p in enumerate(model.pieces) if p.type in (2, 3)]
    added += [(len(model.pieces) + i, f"<extra_id_{i}>") for i in range(2)]
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    with open("tokenizer.json", "w", encoding="utf-8") as f:
        json.dump({
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [dict(id=i, content=c, **flags) for i, c in added],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "post_processor": None, "decoder": None,
            "model": {"type": "Unigram", "unk_id": 2, "byte_fallback": False,
                      "vocab": [[p.piece, p.score] for p in model.pieces]}}, f, ensure_ascii=False)
    fast = tokenizers.Tokenizer.from_file("tokenizer.json")
    slow = sentencepiece.SentencePieceProcessor(model_file="spiece.model")
    cases = []
    for text in TEXTS:
        e = fast.encode(text)
        cases.append({"text": text, "ids": e.ids, "offsets": [list(o) for o in e.offsets]})
        if "<" not in text:
            cases[-1]["bytes_ids"] = slow.encode(text)
    with open("cases.json", "w", encoding="utf-8") as f:
        json.dump(cases, f, ensure_ascii=False, indent=0)
    for name in ("corpus.txt", "rules.tsv", "spiece.vocab"):
        os.remove(name)


if __name__ == "__main__":
    main()
