/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/helper/talk.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- arguments ---- */

static int number(const char *word, uint32_t *ret)
{
    char *end;

    errno = 0;
    unsigned long value = strtoul(word, &end, 10);
    if (word[0] < '0' || word[0] > '9' || *end != '\0' || errno != 0 || value > UINT32_MAX)
        return -HA_E_USAGE;
    *ret = (uint32_t)value;
    return 0;
}

static int numbers(char *const *words, uint32_t *const *places, int count, struct ha_err *err)
{
    for (int n = 0; n < count; n++)
        if (number(words[n], places[n]) != 0)
            return ha_err_set(err, HA_E_USAGE, "helper: \"%.20s\" is no number", words[n]);
    return 0;
}

int talk_args_parse(int count, char *const *words, struct talk_args *ret, struct ha_err *err)
{
    struct talk_args a = {0};
    uint32_t fd = 0;
    uint32_t *const of_save[] = {&a.domid, &a.flags, &a.callbacks, &a.stream_type};
    uint32_t *const of_restore[] = {&a.domid,          &a.store_evtchn,  &a.store_domid,
                                    &a.console_evtchn, &a.console_domid, &a.callbacks,
                                    &a.stream_type};
    bool is_save = count == 7 && strcmp(words[0], "--save-domain") == 0;

    a.is_restore = count == 10 && strcmp(words[0], "--restore-domain") == 0;
    if (!is_save && !a.is_restore)
        return ha_err_set(err, HA_E_USAGE,
                          "helper: expected --save-domain and 6 or --restore-domain and 9 numbers");
    int rc = number(words[1], &fd) == 0 && fd <= INT_MAX
                 ? 0
                 : ha_err_set(err, HA_E_USAGE, "helper: \"%.20s\" is no descriptor", words[1]);
    a.fd = (int)fd;
    /* words[2], the way back of a stream that is checkpointed, is whatever it is. */
    if (rc == 0)
        rc = is_save ? numbers(words + 3, of_save, 4, err) : numbers(words + 3, of_restore, 7, err);
    if (rc == 0)
        *ret = a;
    return rc;
}

/* ---- messages ---- */

static size_t begin(struct ha_writer *w, enum talk_type type)
{
    size_t at = w->position;

    ha_put_u16(w, 0);
    ha_put_u16(w, (uint16_t)type);
    return at;
}

static void end(struct ha_writer *w, size_t at)
{
    struct ha_writer size = ha_writer_of(w->data + at, sizeof(uint16_t));

    if (!w->failed)
        ha_put_u16(&size, (uint16_t)(w->position - at - sizeof(uint16_t)));
}

static void put_string(struct ha_writer *w, const char *text)
{
    size_t size = text ? strnlen(text, TALK_STRING_MAX - 1) : 0;

    ha_put_u32(w, (uint32_t)size + 1);
    ha_put_raw(w, text, size);
    ha_put_u8(w, 0);
}

void talk_log(struct ha_writer *w, uint32_t level, uint32_t code, const char *context,
              const char *text)
{
    size_t at = begin(w, TALK_LOG);

    ha_put_u32(w, level);
    ha_put_u32(w, code);
    put_string(w, context);
    put_string(w, text);
    end(w, at);
}

void talk_progress(struct ha_writer *w, const char *context, const char *what, uint64_t done,
                   uint64_t total)
{
    size_t at = begin(w, TALK_PROGRESS);

    put_string(w, context);
    put_string(w, what);
    ha_put_u64(w, done);
    ha_put_u64(w, total);
    end(w, at);
}

void talk_plain(struct ha_writer *w, enum talk_type type)
{
    end(w, begin(w, type));
}

void talk_qemu_logdirty(struct ha_writer *w, uint32_t domid, uint32_t is_on)
{
    size_t at = begin(w, TALK_QEMU_LOGDIRTY);

    ha_put_u32(w, domid);
    ha_put_u32(w, is_on);
    end(w, at);
}

void talk_static_done(struct ha_writer *w, uint32_t missing)
{
    size_t at = begin(w, TALK_STATIC_DONE);

    ha_put_u32(w, missing);
    end(w, at);
}

void talk_results(struct ha_writer *w, uint64_t store_gfn, uint64_t console_gfn)
{
    size_t at = begin(w, TALK_RESULTS);

    ha_put_u64(w, store_gfn);
    ha_put_u64(w, console_gfn);
    end(w, at);
}

void talk_complete(struct ha_writer *w, int32_t outcome, int32_t code)
{
    size_t at = begin(w, TALK_COMPLETE);

    ha_put_u32(w, (uint32_t)outcome);
    ha_put_u32(w, (uint32_t)code);
    end(w, at);
}
