"""Captions to token ids without sentencepiece: every word of the grammar is one piece of the tokenizer."""
import json
import os

EOS, PAD = 1, 0


class Words:
    def __init__(self, folder):
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
            pieces = [piece for piece, _ in json.load(f)["model"]["vocab"]]
        self.ids = {piece[1:]: i for i, piece in enumerate(pieces) if piece.startswith("\u2581")}

    def encode(self, lines, length):
        """list of strings -> list of lists of `length` ids; KeyError for a word outside the grammar."""
        rows = [[self.ids[word] for word in line.split()][:length - 1] + [EOS] for line in lines]
        return [row + [PAD] * (length - len(row)) for row in rows]
