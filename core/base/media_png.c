/* PNG files: the chunks are ours, the compression is FFmpeg's where the build has it. Without FFmpeg the pixels go into
 * stored deflate blocks, which every reader accepts. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/media_internal.h"

#define SIGNATURE "\x89PNG\r\n\x1a\n"
#define HEADER_BYTES 33     /* signature and IHDR chunk */

/* Bitwise CRC-32 (ISO 3309); chunks checked here are text and pixels of previews, so speed does not matter much: a
 * table of 16 entries does a nibble at a time. */
static uint32_t crc_add(uint32_t crc, const uint8_t *p, size_t n)
{
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = nibble[crc & 15] ^ crc >> 4;
        crc = nibble[crc & 15] ^ crc >> 4;
    }
    return crc;
}

static void put32(str *s, uint32_t v)
{
    uint8_t b[4] = { (uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v };
    str_addn(s, b, 4);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put_chunk(str *s, const char *type, const void *data, size_t n)
{
    put32(s, (uint32_t)n);
    str_addn(s, type, 4);
    if (n)
        str_addn(s, data, n);
    put32(s, ~crc_add(crc_add(~0u, (const uint8_t *)type, 4), data, n));
}

static int put_text_chunks(str *s, const media_tag *tags, size_t n_tags, const char *path, err *e)
{
    for (size_t i = 0; i < n_tags; i++) {
        size_t n = strlen(tags[i].key), value_bytes = strlen(tags[i].value);
        bool fine = n >= 1 && n <= 79 && value_bytes < 1u << 30;
        for (size_t k = 0; k < n; k++)
            fine = fine && tags[i].key[k] > ' ' && tags[i].key[k] < 127;
        if (!fine)
            return ERR(e, ERR_ARG, "%s: '%.80s' cannot name a text of a PNG file: 1 to 79 printable ASCII characters "
                       "without blanks, and a text under 1 GiB, are needed", path, tags[i].key);
        str data = STR_INIT;
        str_add(&data, tags[i].key);
        str_addn(&data, "\0\0\0\0", 5);       /* end of key, not compressed, method 0, no language, no translated key */
        str_addn(&data, tags[i].value, value_bytes);
        if (!data.failed)
            put_chunk(s, "iTXt", data.data, data.len);
        s->failed = s->failed || data.failed;
        str_release(&data);
    }
    return 0;
}

#ifndef HAVE_FFMPEG
static void put_stored_image(str *s, int width, int height, const uint8_t *rgb)
{
    size_t row_bytes = (size_t)width * 3;
    uint32_t a = 1, b = 0;             /* Adler-32 */
    str z = STR_INIT, raw = STR_INIT;
    for (int y = 0; y < height; y++) {
        str_addc(&raw, 0);             /* no filter */
        str_addn(&raw, rgb + (size_t)y * row_bytes, row_bytes);
    }
    str_addn(&z, "\x78\x01", 2);
    for (size_t at = 0; at < raw.len && !raw.failed;) {
        size_t n = raw.len - at < 65535 ? raw.len - at : 65535;
        uint8_t head[5] = { at + n == raw.len, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)~n, (uint8_t)(~n >> 8) };
        str_addn(&z, head, 5);
        str_addn(&z, raw.data + at, n);
        for (size_t i = at; i < at + n; i++) {
            a = (a + (uint8_t)raw.data[i]) % 65521;
            b = (b + a) % 65521;
        }
        at += n;
    }
    put32(&z, b << 16 | a);
    s->failed = s->failed || z.failed || raw.failed;
    if (!s->failed)
        put_chunk(s, "IDAT", z.data, z.len);
    str_release(&z);
    str_release(&raw);
}
#endif

int media_png_write(const char *path, int width, int height, const uint8_t *rgb, const media_tag *tags, size_t n_tags,
                    err *e)
{
    int rc = 0;
    str file = STR_INIT, image = STR_INIT;
    if (width < 1 || height < 1 || width > MEDIA_MAX_SIDE || height > MEDIA_MAX_SIDE)
        return ERR(e, ERR_ARG, "%s: an image of %dx%d pixels cannot be written: each side must be from 1 to %d", path,
                   width, height, MEDIA_MAX_SIDE);
#ifdef HAVE_FFMPEG
    rc = ffmpeg_png_encode(&image, width, height, rgb, path, e);
    if (rc)
        goto out;
    if (image.len < HEADER_BYTES + 12 || memcmp(image.data, SIGNATURE, 8)) {
        rc = ERR(e, ERR_INTERNAL, "%s: FFmpeg's PNG encoder gave something that is not a PNG file", path);
        goto out;
    }
    str_addn(&file, image.data, HEADER_BYTES);
    rc = put_text_chunks(&file, tags, n_tags, path, e);
    if (rc)
        goto out;
    str_addn(&file, image.data + HEADER_BYTES, image.len - HEADER_BYTES);
#else
    put32(&image, (uint32_t)width);
    put32(&image, (uint32_t)height);
    str_addn(&image, "\x08\x02\0\0\0", 5);    /* 8 bits, RGB, deflate, no filters, not interlaced */
    str_addn(&file, SIGNATURE, 8);
    if (!image.failed)
        put_chunk(&file, "IHDR", image.data, image.len);
    rc = put_text_chunks(&file, tags, n_tags, path, e);
    if (rc)
        goto out;
    put_stored_image(&file, width, height, rgb);
    put_chunk(&file, "IEND", NULL, 0);
#endif
    if (file.failed || image.failed)
        rc = ERR(e, ERR_MEMORY, "%s: no memory for an image of %dx%d pixels", path, width, height);
    else
        rc = fs_write_atomic(path, file.data, file.len, e);
out:
    str_release(&file);
    str_release(&image);
    return rc;
}

/* Checks signature, chunk lengths and checksums of the whole file. With `key`, copies the text under it to *value. */
static int walk_chunks(const fs_map *m, const char *key, char **value, err *e)
{
    if (m->size < 8 || memcmp(m->data, SIGNATURE, 8))
        return ERR(e, ERR_FORMAT, "%s: not a PNG file: the signature is missing", m->path);
    for (size_t at = 8;;) {
        if (m->size - at < 12 || get32(m->data + at) > m->size - at - 12)
            return ERR(e, ERR_FORMAT,
                       "%s: the PNG file is cut off: its %zu bytes end inside the chunk at byte %zu; copy it again",
                       m->path, m->size, at);
        size_t n = get32(m->data + at);
        const uint8_t *type = m->data + at + 4, *data = type + 4;
        if (~crc_add(~0u, type, n + 4) != get32(data + n))
            return ERR(e, ERR_FORMAT,
                       "%s: the PNG file is damaged: the checksum of the chunk at byte %zu is wrong; copy it again",
                       m->path, at);
        bool international = !memcmp(type, "iTXt", 4);
        if (key && !*value && (international || !memcmp(type, "tEXt", 4))) {
            size_t k = strlen(key) + 1, end = k;
            bool match = n >= k && !memcmp(data, key, k);
            if (match && international) {
                match = n >= k + 2 && data[k] == 0;    /* compressed texts are left alone */
                end = k + 2;
                for (int nul = 0; match && nul < 2; end++) {
                    if (end >= n)
                        match = false;
                    else if (!data[end])
                        nul++;
                }
            }
            if (match && !(*value = str_dupn((const char *)data + end, n - end)))
                return ERR(e, ERR_MEMORY, "%s: no memory for a text of %zu bytes", m->path, n);
        }
        if (!memcmp(type, "IEND", 4))
            return 0;
        at += n + 12;
    }
}

int media_png_tag(const char *path, const char *key, char **value, err *e)
{
    fs_map m;
    *value = NULL;
    int rc = fs_map_open(&m, path, e);
    if (rc)
        return rc;
    rc = walk_chunks(&m, key, value, e);
    if (rc) {
        free(*value);
        *value = NULL;
    }
    fs_map_close(&m);
    return rc;
}

int media_png_read(const char *path, int *width, int *height, uint8_t **rgb, err *e)
{
    fs_map m;
    *width = *height = 0;
    *rgb = NULL;
    int rc = fs_map_open(&m, path, e);
    if (rc)
        return rc;
    rc = walk_chunks(&m, NULL, NULL, e);
#ifdef HAVE_FFMPEG
    if (!rc)
        rc = ffmpeg_png_decode(width, height, rgb, m.data, m.size, path, e);
#else
    if (!rc)
        rc = ERR(e, ERR_ARG, "%s: this build has no FFmpeg, so images cannot be read: install libavcodec-dev, "
                 "libavformat-dev and libswscale-dev and build again", path);
#endif
    fs_map_close(&m);
    return rc;
}
