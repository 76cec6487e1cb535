#include "core/text/spm.h"

#include <sentencepiece_processor.h>

#include <exception>
#include <new>
#include <string>

struct spm {
    sentencepiece::SentencePieceProcessor processor;
    std::string path;
};

int spm_open(spm **out, const void *bytes, size_t n, const char *path, err *e)
{
    spm *s = nullptr;
    *out = nullptr;
    try {
        s = new spm;
        s->path = path;
        const auto status =
            s->processor.LoadFromSerializedProto(absl::string_view(static_cast<const char *>(bytes), n));
        if (!status.ok()) {
            int rc = ERR(e, ERR_FORMAT, "%s: the sentencepiece library refuses this model: %s", path,
                         status.ToString().c_str());
            delete s;
            return rc;
        }
        *out = s;
        return 0;
    } catch (const std::bad_alloc &) {
        delete s;
        return ERR(e, ERR_MEMORY, "%s: out of memory for a sentencepiece model of %zu bytes", path, n);
    } catch (const std::exception &x) {
        delete s;
        return ERR(e, ERR_FORMAT, "%s: the sentencepiece library refuses this model: %s", path, x.what());
    }
}

void spm_free(spm *s)
{
    delete s;
}

int32_t spm_size(const spm *s)
{
    return s->processor.GetPieceSize();
}

int spm_encode(const spm *s, const char *text, size_t n, int (*emit)(void *arg, const spm_piece *piece), void *arg,
               err *e)
{
    try {
        sentencepiece::ImmutableSentencePieceText pieces;
        const auto status = s->processor.Encode(absl::string_view(text, n), pieces.mutable_proto());
        if (!status.ok())
            return ERR(e, ERR_INTERNAL, "%s: the sentencepiece library cannot encode a text of %zu bytes: %s",
                       s->path.c_str(), n, status.ToString().c_str());
        for (size_t i = 0; i < pieces.pieces_size(); i++) {
            const auto p = pieces.pieces(static_cast<int>(i));
            const std::string &name = p.piece();
            const spm_piece out = { static_cast<int32_t>(p.id()), name.data(), name.size(), p.begin(), p.end() };
            if (int rc = emit(arg, &out))
                return rc;
        }
        return 0;
    } catch (const std::bad_alloc &) {
        return ERR(e, ERR_MEMORY, "out of memory for a text of %zu bytes", n);
    } catch (const std::exception &x) {
        return ERR(e, ERR_INTERNAL, "%s: the sentencepiece library failed on a text of %zu bytes: %s", s->path.c_str(),
                   n, x.what());
    }
}
