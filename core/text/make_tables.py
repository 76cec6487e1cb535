#!/usr/bin/env python3
"""Writes core/text/unicode_data.c and core/text/entities_data.c.

The facts come from the Unicode character database and the HTML list of named character references that Python's
standard library carries (unicodedata, html.entities). Run it from the repository root with python3 when a newer
Unicode version is wanted; the build does not run it.
"""
import html
import html.entities
import sys
import unicodedata as ud

ALL = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
WIDTH = 118


def rows(items):
    """Items joined by ', ' into lines no longer than the house limit."""
    line, out = "   ", []
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            out.append(line)
            line = "   "
        line += " " + item + ","
    out.append(line)
    return "\n".join(out)


def table(type_, name, items):
    return f"const {type_} {name}[] = {{\n{rows(items)}\n}};\nconst size_t {name}_COUNT = {len(items)};\n"


def hexa(c):
    return f"0x{c:X}" if c > 9 else str(c)


def entry(*values):
    return "{" + ",".join(hexa(v) for v in values) + "}"


def decompositions():
    for c in ALL:
        d = ud.decomposition(chr(c))
        if d and not d.startswith("<"):
            parts = [int(x, 16) for x in d.split()]
            assert len(parts) <= 2
            yield c, parts[0], parts[1] if len(parts) == 2 else 0


def compositions(pairs):
    for c, a, b in pairs:
        if b and ud.normalize("NFC", chr(a) + chr(b)) == chr(c):
            yield a, b, c


def ranges(value):
    """Runs of code points with the same non-zero value(c)."""
    start = last = current = None
    for c in ALL:
        v = value(c)
        if v and v == current and c == last + 1:
            last = c
            continue
        if current:
            yield start, last, current
        start, last, current = (c, c, v) if v else (None, None, None)
    if current:
        yield start, last, current


def extends(c):
    """Does c join the user-visible character before it? (Grapheme_Extend, spacing marks, joiners)"""
    return c in (0x200C, 0x200D, 0xFF9E, 0xFF9F) or 0x1F3FB <= c <= 0x1F3FF or \
        0xE0020 <= c <= 0xE007F or ud.category(chr(c)) in ("Mn", "Me", "Mc")


def mapped(chars, fn):
    for c in chars:
        t = fn(chr(c))
        if t != chr(c) and len(t) <= 2:
            yield c, ord(t[0]), ord(t[1]) if len(t) == 2 else 0


def unicode_data():
    pairs = list(decompositions())
    uppercase = sorted({ord(v) for v in html.entities.html5.values() if len(v) == 1})
    parts = [
        f"/* Made by core/text/make_tables.py from Unicode {ud.unidata_version}; do not edit. */\n"
        '#include "core/text/unicode.h"\n',
        "/* canonical decompositions: code point, first, second (0: none) */\n"
        + table("unicode_triple", "UNICODE_DECOMPOSITIONS", [entry(*p) for p in pairs]),
        "/* first, second, what they compose to (composition exclusions left out) */\n"
        + table("unicode_triple", "UNICODE_COMPOSITIONS", [entry(*p) for p in sorted(compositions(pairs))]),
        "/* canonical combining classes: first, last, class */\n"
        + table("unicode_triple", "UNICODE_CLASSES", [entry(*r) for r in ranges(lambda c: ud.combining(chr(c)))]),
        "/* code points that extend the character before them: first, last, 1 */\n"
        + table("unicode_triple", "UNICODE_EXTENDERS", [entry(*r) for r in ranges(lambda c: 1 if extends(c) else 0)]),
        "/* full and half width forms and their ordinary form */\n"
        + table("unicode_triple", "UNICODE_WIDTHS",
                [entry(*m) for m in mapped([0x3000, *range(0xFF01, 0xFFF0)], lambda t: ud.normalize("NFKC", t))]),
        "/* upper case of the characters that have an HTML name, without the ligatures ffi and ffl (three letters) */\n"
        + table("unicode_triple", "UNICODE_UPPER", [entry(*m) for m in mapped(uppercase, str.upper)]),
    ]
    return "\n".join(parts)


def entities_data():
    items = []
    for name, value in sorted(html.entities.html5.items(), key=lambda kv: kv[0].encode()):
        assert len(value) <= 2
        items.append(f'{{"{name}",{hexa(ord(value[0]))},{hexa(ord(value[1])) if len(value) == 2 else 0}}}')
    return ("/* Made by core/text/make_tables.py: the named character references of HTML, sorted by bytes; names\n"
            " * without a semicolon are the old ones that HTML accepts without it. Do not edit. */\n"
            '#include "core/text/unicode.h"\n\n' + table("html_entity", "HTML_ENTITIES", items))


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "core/text"
    for name, text in (("unicode_data.c", unicode_data()), ("entities_data.c", entities_data())):
        with open(f"{folder}/{name}", "w", encoding="ascii") as f:
            f.write(text)


if __name__ == "__main__":
    main()
