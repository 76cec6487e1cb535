/* The FFmpeg side of media.h. The `file:` prefix keeps FFmpeg from reading protocols out of names with a colon. */
#ifdef HAVE_FFMPEG

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/media_internal.h"

/* A constant, not the number of cores: x264's bytes depend on how many threads encode. */
#define ENCODER_THREADS 4

static void forward_log(void *context, int level, const char *fmt, va_list ap)
{
    char line[1024];
    int print_prefix = 1;
    if (level > AV_LOG_WARNING)
        return;
    av_log_format_line2(context, level, fmt, ap, line, sizeof line, &print_prefix);
    size_t n = strlen(line);
    while (n && line[n - 1] == '\n')
        line[--n] = 0;
    if (n)
        log_msg(LOG_DEBUG, "FFmpeg: %s", line);
}

static void set_log_callback(void)
{
    av_log_set_callback(forward_log);
}

static void quiet(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_log_callback);
}

/* FFmpeg's errors are negated errno values or its own tags. */
static int av_fail(err *e, int averror, const char *path, const char *what)
{
    char reason[AV_ERROR_MAX_STRING_SIZE];
    av_make_error_string(reason, sizeof reason, averror);
    if (averror == AVERROR(ENOMEM))
        return ERR(e, ERR_MEMORY, "%s: %s: memory ran out", path, what);
    if (averror == AVERROR(ENOSPC) || averror == AVERROR(EDQUOT) || averror == AVERROR(EFBIG))
        return ERR(e, ERR_IO, "%s: %s: %s; free some space and run again", path, what, reason);
    if (averror == AVERROR(ENOENT) || averror == AVERROR(EACCES) || averror == AVERROR(EROFS) ||
        averror == AVERROR(EISDIR) || averror == AVERROR(ENOTDIR))
        return ERR(e, ERR_IO, "%s: %s: %s; check that it exists and that you may use it", path, what, reason);
    if (averror == AVERROR(EIO))
        return ERR(e, ERR_IO, "%s: %s: %s", path, what, reason);
    return ERR(e, ERR_FORMAT, "%s: %s: %s", path, what, reason);
}

/* ---- MP4 encoder ---- */

struct mp4_encoder {
    char *path, *url;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    AVFrame *frame;
    AVPacket *packet;
    video_chroma chroma;
    int64_t next_pts;
};

void mp4_encoder_free(mp4_encoder *m)
{
    if (!m)
        return;
    if (m->format) {
        if (m->format->pb)
            avio_closep(&m->format->pb);
        avformat_free_context(m->format);
    }
    avcodec_free_context(&m->codec);
    av_frame_free(&m->frame);
    av_packet_free(&m->packet);
    free(m->path);
    free(m->url);
    free(m);
}

static int open_codec(mp4_encoder *m, const video_spec *spec, const char *name, err *e)
{
    const AVCodec *codec = avcodec_find_encoder_by_name(name ? name : "libx264");
    if (!codec && !name) {
        codec = avcodec_find_encoder_by_name("mpeg4");
        if (codec && spec->chroma == VIDEO_420)
            log_msg(LOG_WARN,
                    "%s: the FFmpeg libraries here have no libx264, so the video is encoded as MPEG-4 part 2: larger, "
                    "and some players do not show it",
                    m->path);
    }
    if (!codec)
        return ERR(e, ERR_ARG,
                   "%s: the FFmpeg libraries here have no encoder '%s': write a name ending in .y4m instead, or "
                   "install an FFmpeg with libx264",
                   m->path, name ? name : "libx264");
    bool x264 = !strcmp(codec->name, "libx264");
    if (!x264 && spec->chroma == VIDEO_444)
        return ERR(e, ERR_ARG,
                   "%s: 4:4:4 MP4 needs an FFmpeg with libx264, found only '%s': choose 4:2:0 or a name ending in "
                   ".y4m",
                   m->path, codec->name);

    AVCodecContext *c = m->codec = avcodec_alloc_context3(codec);
    if (!c)
        return av_fail(e, AVERROR(ENOMEM), m->path, "the encoder cannot be set up");
    c->width = spec->width;
    c->height = spec->height;
    c->time_base = (AVRational){ spec->fps_den, spec->fps_num };
    c->framerate = (AVRational){ spec->fps_num, spec->fps_den };
    c->sample_aspect_ratio = (AVRational){ 1, 1 };
    c->pix_fmt = spec->chroma == VIDEO_444 ? AV_PIX_FMT_YUV444P : AV_PIX_FMT_YUV420P;
    c->colorspace = AVCOL_SPC_SMPTE170M;
    c->color_primaries = AVCOL_PRI_BT709;
    c->color_trc = AVCOL_TRC_BT709;
    c->color_range = AVCOL_RANGE_MPEG;
    c->chroma_sample_location = spec->chroma == VIDEO_420 ? AVCHROMA_LOC_LEFT : AVCHROMA_LOC_UNSPECIFIED;
    c->thread_count = ENCODER_THREADS;
    c->flags |= AV_CODEC_FLAG_BITEXACT;
    if (m->format->oformat->flags & AVFMT_GLOBALHEADER)
        c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (x264) {
        char crf[16];
        snprintf(crf, sizeof crf, "%d", spec->crf);
        av_opt_set(c->priv_data, "preset", "medium", 0);
        /* x264's macroblock tree gives other bytes for the same frames now and then at small widths (5 of 300 encodings of a
         * 48x32 clip; none of 2500 without it) */
        av_opt_set(c->priv_data, "x264-params", "mbtree=0", 0);
        av_opt_set(c->priv_data, "crf", crf, 0);
    } else {
        int q = spec->crf / 5 < 1 ? 1 : spec->crf / 5;    /* crf 10 -> 2, the usual "visually lossless" quantiser */
        c->thread_count = 1;
        c->flags |= AV_CODEC_FLAG_QSCALE;
        c->global_quality = FF_QP2LAMBDA * q;
    }
    int rc = avcodec_open2(c, codec, NULL);
    return rc < 0 ? av_fail(e, rc, m->path, "the video encoder refuses these settings") : 0;
}

int mp4_encoder_open(mp4_encoder **out, const char *part, const char *path, const video_spec *spec, const char *codec,
                     err *e)
{
    AVDictionary *options = NULL;
    int av = 0, rc = 0;
    *out = NULL;
    quiet();
    mp4_encoder *m = calloc(1, sizeof *m);
    if (!m)
        return ERR(e, ERR_MEMORY, "%s: no memory for a video encoder", path);
    m->chroma = spec->chroma;
    m->path = str_dup(path);
    m->url = str_format("file:%s", part);
    m->frame = av_frame_alloc();
    m->packet = av_packet_alloc();
    if (!m->path || !m->url || !m->frame || !m->packet ||
        avformat_alloc_output_context2(&m->format, NULL, "mp4", m->url) < 0) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for a video encoder", path);
        goto out;
    }
    m->format->flags |= AVFMT_FLAG_BITEXACT;
    rc = open_codec(m, spec, codec, e);
    if (rc)
        goto out;
    m->frame->format = m->codec->pix_fmt;
    m->frame->width = spec->width;
    m->frame->height = spec->height;
    av = av_frame_get_buffer(m->frame, 0);
    if (av >= 0 && !(m->stream = avformat_new_stream(m->format, NULL)))
        av = AVERROR(ENOMEM);
    if (av >= 0)
        av = avcodec_parameters_from_context(m->stream->codecpar, m->codec);
    if (av < 0) {
        rc = av_fail(e, av, path, "the video encoder cannot be set up");
        goto out;
    }
    m->stream->time_base = m->codec->time_base;
    m->stream->avg_frame_rate = m->codec->framerate;
    m->stream->sample_aspect_ratio = m->codec->sample_aspect_ratio;
    for (size_t i = 0; i < spec->n_tags && av >= 0; i++)
        av = av_dict_set(&m->format->metadata, spec->tags[i].key, spec->tags[i].value, 0);
    if (av >= 0)      /* keys of our own choosing are kept; the index comes first so that browsers can start at once */
        av = av_dict_set(&options, "movflags", "use_metadata_tags+faststart", 0);
    if (av < 0) {
        rc = av_fail(e, av, path, "the metadata cannot be set");
        goto out;
    }
    av = avio_open(&m->format->pb, m->url, AVIO_FLAG_WRITE);
    if (av < 0) {
        rc = av_fail(e, av, part, "cannot be created");
        goto out;
    }
    av = avformat_write_header(m->format, &options);
    if (av < 0)
        rc = av_fail(e, av, part, "the MP4 header cannot be written");
out:
    av_dict_free(&options);
    if (rc)
        mp4_encoder_free(m);
    else
        *out = m;
    return rc;
}

/* Sends a frame (NULL drains) and writes what comes out. */
static int encode(mp4_encoder *m, const AVFrame *frame, err *e)
{
    int av = avcodec_send_frame(m->codec, frame);
    if (av < 0)
        return av_fail(e, av, m->path, "a frame cannot be encoded");
    for (;;) {
        av = avcodec_receive_packet(m->codec, m->packet);
        if (av == AVERROR(EAGAIN) || av == AVERROR_EOF)
            return 0;
        if (av < 0)
            return av_fail(e, av, m->path, "a frame cannot be encoded");
        m->packet->stream_index = m->stream->index;
        m->packet->duration = 1;
        av_packet_rescale_ts(m->packet, m->codec->time_base, m->stream->time_base);
        av = av_interleaved_write_frame(m->format, m->packet);
        if (av >= 0 && m->format->pb->error < 0)
            av = m->format->pb->error;
        if (av < 0)
            return av_fail(e, av, m->path, "the video cannot be written");
    }
}

int mp4_encoder_frame(mp4_encoder *m, const uint8_t *rgb, err *e)
{
    AVFrame *f = m->frame;
    int av = av_frame_make_writable(f);
    if (av < 0)
        return av_fail(e, av, m->path, "a frame cannot be prepared");
    media_rgb_to_yuv(f->data[0], f->linesize[0], f->data[1], f->linesize[1], f->data[2], f->linesize[2], rgb, f->width,
                     f->height, m->chroma);
    f->pts = m->next_pts++;
    f->pict_type = AV_PICTURE_TYPE_NONE;
    f->quality = m->codec->global_quality;     /* read per frame by the quantiser-driven encoders only */
    return encode(m, f, e);
}

int mp4_encoder_finish(mp4_encoder *m, err *e)
{
    int rc = encode(m, NULL, e);
    if (rc)
        return rc;
    int av = av_write_trailer(m->format);
    avio_flush(m->format->pb);
    if (av >= 0 && m->format->pb->error < 0)
        av = m->format->pb->error;
    int closed = avio_closep(&m->format->pb);
    if (av >= 0 && closed < 0)
        av = closed;
    return av < 0 ? av_fail(e, av, m->path, "the video cannot be finished") : 0;
}

/* ---- reader ---- */

struct video_reader {
    char *path, *url;
    AVFormatContext *format;
    AVCodecContext *codec;
    int stream;
    AVFrame *frame;
    AVPacket *packet;
    struct SwsContext *sws;
    int sws_format, sws_space, sws_range;    /* what sws was made for */
    video_info info;
    int64_t n_read;                          /* frames given out */
    bool draining;
};

void video_reader_close(video_reader *r)
{
    if (!r)
        return;
    sws_freeContext(r->sws);
    avcodec_free_context(&r->codec);
    avformat_close_input(&r->format);
    av_frame_free(&r->frame);
    av_packet_free(&r->packet);
    free(r->path);
    free(r->url);
    free(r);
}

/* Packets of the stream that a decoder shows. */
static int count_packets(video_reader *r, int64_t *count, err *e)
{
    AVFormatContext *f = NULL;
    bool cut = false;
    *count = 0;
    int av = avformat_open_input(&f, r->url, NULL, NULL);
    if (av >= 0)
        av = avformat_find_stream_info(f, NULL);
    while (av >= 0 && !cut && (av = av_read_frame(f, r->packet)) >= 0) {
        bool ours = r->packet->stream_index == r->stream;
        cut = r->packet->flags & AV_PKT_FLAG_CORRUPT;
        *count += ours && !cut && !(r->packet->flags & AV_PKT_FLAG_DISCARD);
        av_packet_unref(r->packet);
    }
    avformat_close_input(&f);
    if (cut)
        return ERR(e, ERR_FORMAT, "%s: the video is damaged near frame %lld: the data are cut off; copy or make it again", r->path, (long long)*count);
    return av == AVERROR_EOF ? 0 : av_fail(e, av, r->path, "the video cannot be read to its end");
}

int video_reader_look_through(video_reader *r, int64_t *n_frames, err *e)
{
    return count_packets(r, n_frames, e);
}

int video_reader_open(video_reader **out, const char *path, err *e)
{
    int rc = 0, av = 0;
    const AVCodec *codec = NULL;
    *out = NULL;
    quiet();
    video_reader *r = calloc(1, sizeof *r);
    if (!r)
        return ERR(e, ERR_MEMORY, "%s: no memory for a video reader", path);
    r->path = str_dup(path);
    r->url = str_format("file:%s", path);
    r->frame = av_frame_alloc();
    r->packet = av_packet_alloc();
    if (!r->path || !r->url || !r->frame || !r->packet) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for a video reader", path);
        goto out;
    }
    av = avformat_open_input(&r->format, r->url, NULL, NULL);
    if (av < 0) {
        rc = av_fail(e, av, path, "cannot be opened as a video");
        goto out;
    }
    av = avformat_find_stream_info(r->format, NULL);
    if (av >= 0)
        av = av_find_best_stream(r->format, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (av == AVERROR_STREAM_NOT_FOUND) {
        rc = ERR(e, ERR_FORMAT, "%s: holds no video", path);
        goto out;
    }
    if (av < 0) {
        rc = av_fail(e, av, path, "cannot be read as a video");
        goto out;
    }
    r->stream = av;
    AVStream *stream = r->format->streams[r->stream];
    r->codec = avcodec_alloc_context3(codec);
    av = r->codec ? avcodec_parameters_to_context(r->codec, stream->codecpar) : AVERROR(ENOMEM);
    if (av >= 0) {
        r->codec->err_recognition = AV_EF_CRCCHECK | AV_EF_EXPLODE;
        r->codec->thread_count = 2;
        av = avcodec_open2(r->codec, codec, NULL);
    }
    if (av < 0) {
        rc = av_fail(e, av, path, "the video decoder cannot be set up");
        goto out;
    }
    AVRational rate = stream->avg_frame_rate.num ? stream->avg_frame_rate : stream->r_frame_rate;
    r->info.width = r->codec->width;
    r->info.height = r->codec->height;
    r->info.fps_num = rate.num;
    r->info.fps_den = rate.den ? rate.den : 1;
    r->info.n_frames = stream->nb_frames;
    if (r->info.width < 1 || r->info.height < 1 || r->info.width > MEDIA_MAX_SIDE || r->info.height > MEDIA_MAX_SIDE) {
        rc = ERR(e, ERR_FORMAT, "%s: the video says it is %dx%d pixels: each side must be from 1 to %d", path,
                 r->info.width, r->info.height, MEDIA_MAX_SIDE);
        goto out;
    }
    if (r->info.n_frames <= 0)      /* containers without an index (y4m) are read through once */
        rc = count_packets(r, &r->info.n_frames, e);
out:
    if (rc)
        video_reader_close(r);
    else
        *out = r;
    return rc;
}

const video_info *video_reader_info(const video_reader *r)
{
    return &r->info;
}

const char *video_reader_tag(const video_reader *r, const char *key)
{
    const AVDictionaryEntry *t = av_dict_get(r->format->metadata, key, NULL, 0);
    return t ? t->value : NULL;
}

static int to_rgb(video_reader *r, uint8_t *rgb, err *e)
{
    const AVFrame *f = r->frame;
    if (f->width != r->info.width || f->height != r->info.height)
        return ERR(e, ERR_FORMAT, "%s: frame %lld is %dx%d pixels, the video began with %dx%d: give it one size first",
                   r->path, (long long)r->n_read, f->width, f->height, r->info.width, r->info.height);
    int space = f->colorspace, full = f->color_range == AVCOL_RANGE_JPEG;
    if (f->format == AV_PIX_FMT_YUVJ420P || f->format == AV_PIX_FMT_YUVJ422P || f->format == AV_PIX_FMT_YUVJ444P)
        full = 1;
    if (!r->sws || r->sws_format != f->format || r->sws_space != space || r->sws_range != full) {
        sws_freeContext(r->sws);
        enum AVPixelFormat format = (enum AVPixelFormat)f->format;
        r->sws = sws_getContext(f->width, f->height, format, f->width, f->height, AV_PIX_FMT_RGB24,
                                SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT, NULL, NULL, NULL);
        if (!r->sws)
            return ERR(e, ERR_FORMAT, "%s: its pixel format cannot be turned into RGB", r->path);
        /* refused for formats that are RGB already, where there is nothing to set */
        (void)sws_setColorspaceDetails(r->sws, sws_getCoefficients(space == AVCOL_SPC_BT709 ? SWS_CS_ITU709 :
                                                                   space == AVCOL_SPC_BT2020_NCL ? SWS_CS_BT2020 :
                                                                   SWS_CS_ITU601), full,
                                       sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
        r->sws_format = f->format;
        r->sws_space = space;
        r->sws_range = full;
    }
    uint8_t *planes[4] = { rgb };
    int strides[4] = { 3 * f->width };
    if (sws_scale(r->sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height, planes, strides) != f->height)
        return ERR(e, ERR_FORMAT, "%s: frame %lld cannot be turned into RGB", r->path, (long long)r->n_read);
    return 0;
}

/* Gives the decoder the next packet of the stream, or tells it that there are no more. */
static int feed(video_reader *r, err *e)
{
    for (;;) {
        int av = av_read_frame(r->format, r->packet);
        if (av == AVERROR_EOF) {
            r->draining = true;
            av = avcodec_send_packet(r->codec, NULL);
            return av < 0 && av != AVERROR_EOF ? av_fail(e, av, r->path, "the last frames cannot be decoded") : 0;
        }
        if (av < 0)
            return av_fail(e, av, r->path, "the video cannot be read to its end");
        bool corrupt = r->packet->flags & AV_PKT_FLAG_CORRUPT, ours = r->packet->stream_index == r->stream;
        if (ours)
            av = corrupt ? AVERROR_INVALIDDATA : avcodec_send_packet(r->codec, r->packet);
        av_packet_unref(r->packet);
        if (av < 0) {
            char reason[AV_ERROR_MAX_STRING_SIZE];
            return ERR(e, av == AVERROR(ENOMEM) ? ERR_MEMORY : ERR_FORMAT,
                       "%s: the video is damaged near frame %lld of %lld: %s; copy or make it again",
                       r->path, (long long)r->n_read, (long long)r->info.n_frames,
                       corrupt ? "the data are cut off" : av_make_error_string(reason, sizeof reason, av));
        }
        if (ours)
            return 0;
    }
}

int video_reader_frame(video_reader *r, uint8_t *rgb, err *e)
{
    for (;;) {
        int av = avcodec_receive_frame(r->codec, r->frame);
        if (av >= 0) {
            int rc = to_rgb(r, rgb, e);
            av_frame_unref(r->frame);
            if (rc)
                return rc;
            r->n_read++;
            return 1;
        }
        if (av == AVERROR_EOF) {
            if (!r->n_read)
                return ERR(e, ERR_FORMAT, "%s: no frame of the video can be decoded", r->path);
            if (r->n_read < r->info.n_frames) /* edit lists may hide frames; a file that was cut off is refused above */
                log_msg(LOG_WARN, "%s: gave %lld frames, its index names %lld", r->path, (long long)r->n_read,
                        (long long)r->info.n_frames);
            return 0;
        }
        if (av != AVERROR(EAGAIN))
            return av_fail(e, av, r->path, "a frame cannot be decoded");
        if (r->draining)
            return ERR(e, ERR_FORMAT, "%s: the decoder asks for more after the end of the video", r->path);
        int rc = feed(r, e);
        if (rc)
            return rc;
    }
}

/* ---- PNG ---- */

int ffmpeg_png_encode(str *out, int width, int height, const uint8_t *rgb, const char *path, err *e)
{
    int av = AVERROR(ENOMEM);
    quiet();
    const AVCodec *codec = avcodec_find_encoder(AV_CODEC_ID_PNG);
    if (!codec)
        return ERR(e, ERR_ARG, "%s: the FFmpeg libraries here have no PNG encoder: install a complete FFmpeg", path);
    AVCodecContext *c = avcodec_alloc_context3(codec);
    AVFrame *frame = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    if (!c || !frame || !packet)
        goto out;
    c->width = frame->width = width;
    c->height = frame->height = height;
    c->pix_fmt = AV_PIX_FMT_RGB24;
    frame->format = AV_PIX_FMT_RGB24;
    c->time_base = (AVRational){ 1, 1 };
    c->thread_count = 1;
    c->flags |= AV_CODEC_FLAG_BITEXACT;
    c->compression_level = 6;
    av_opt_set(c->priv_data, "pred", "mixed", 0);
    av = avcodec_open2(c, codec, NULL);
    if (av >= 0)
        av = av_frame_get_buffer(frame, 0);
    if (av < 0)
        goto out;
    for (int y = 0; y < height; y++)
        memcpy(frame->data[0] + (ptrdiff_t)y * frame->linesize[0], rgb + (size_t)y * (size_t)width * 3,
               (size_t)width * 3);
    av = avcodec_send_frame(c, frame);
    if (av >= 0)
        av = avcodec_receive_packet(c, packet);
    if (av >= 0)
        str_addn(out, packet->data, (size_t)packet->size);
out:
    av_packet_free(&packet);
    av_frame_free(&frame);
    avcodec_free_context(&c);
    return av < 0 ? av_fail(e, av, path, "the image cannot be encoded") : 0;
}

int ffmpeg_png_decode(int *width, int *height, uint8_t **rgb, const uint8_t *bytes, size_t n, const char *path, err *e)
{
    int av = AVERROR(ENOMEM);
    struct SwsContext *sws = NULL;
    uint8_t *pixels = NULL;
    quiet();
    if (n > INT_MAX / 2)
        return ERR(e, ERR_FORMAT, "%s: an image of %zu bytes is too large", path, n);
    const AVCodec *codec = avcodec_find_decoder(AV_CODEC_ID_PNG);
    if (!codec)
        return ERR(e, ERR_ARG, "%s: the FFmpeg libraries here have no PNG decoder: install a complete FFmpeg", path);
    AVCodecContext *c = avcodec_alloc_context3(codec);
    AVFrame *frame = av_frame_alloc();
    AVPacket *packet = av_packet_alloc();
    if (!c || !frame || !packet || av_new_packet(packet, (int)n) < 0)    /* adds the padding that decoders read into */
        goto out;
    memcpy(packet->data, bytes, n);
    c->err_recognition = AV_EF_CRCCHECK | AV_EF_EXPLODE;
    c->thread_count = 1;
    av = avcodec_open2(c, codec, NULL);
    if (av >= 0)
        av = avcodec_send_packet(c, packet);
    if (av >= 0)
        av = avcodec_send_packet(c, NULL);
    if (av >= 0)
        av = avcodec_receive_frame(c, frame);
    if (av < 0)
        goto out;
    if (frame->width < 1 || frame->height < 1 || frame->width > MEDIA_MAX_SIDE || frame->height > MEDIA_MAX_SIDE) {
        av = AVERROR_INVALIDDATA;
        goto out;
    }
    av = AVERROR(ENOMEM);
    pixels = malloc((size_t)frame->width * (size_t)frame->height * 3);
    sws = sws_getContext(frame->width, frame->height, (enum AVPixelFormat)frame->format, frame->width, frame->height,
                         AV_PIX_FMT_RGB24, SWS_POINT | SWS_ACCURATE_RND | SWS_BITEXACT, NULL, NULL, NULL);
    if (!pixels || !sws)
        goto out;
    uint8_t *planes[4] = { pixels };
    int strides[4] = { 3 * frame->width };
    av = sws_scale(sws, (const uint8_t *const *)frame->data, frame->linesize, 0, frame->height, planes, strides);
    if (av != frame->height) {
        av = AVERROR_INVALIDDATA;
        goto out;
    }
    *width = frame->width;
    *height = frame->height;
    *rgb = pixels;
    pixels = NULL;
out:
    free(pixels);
    sws_freeContext(sws);
    av_packet_free(&packet);
    av_frame_free(&frame);
    avcodec_free_context(&c);
    return av < 0 ? av_fail(e, av == AVERROR_EOF ? AVERROR_INVALIDDATA : av, path, "the image cannot be decoded") : 0;
}

#else

#include "core/base/media.h"

/* Without FFmpeg nothing can be read, and no reader ever exists. */
struct video_reader {
    video_info unused;
};

int video_reader_open(video_reader **out, const char *path, err *e)
{
    *out = NULL;
    return ERR(e, ERR_ARG,
               "%s: this build has no FFmpeg, so videos cannot be read: install libavcodec-dev, libavformat-dev "
               "and libswscale-dev and build again",
               path);
}

const video_info *video_reader_info(const video_reader *r)
{
    return &r->unused;
}

const char *video_reader_tag(const video_reader *r, const char *key)
{
    (void)r;
    (void)key;
    return NULL;
}

int video_reader_frame(video_reader *r, uint8_t *rgb, err *e)
{
    (void)r;
    (void)rgb;
    return ERR(e, ERR_ARG, "this build has no FFmpeg, so videos cannot be read");
}

int video_reader_look_through(video_reader *r, int64_t *n_frames, err *e)
{
    (void)r;
    *n_frames = 0;
    return ERR(e, ERR_ARG, "this build has no FFmpeg, so videos cannot be read");
}

void video_reader_close(video_reader *r)
{
    (void)r;
}

#endif
