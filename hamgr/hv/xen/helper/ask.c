/* SPDX-License-Identifier: Apache-2.0
 *
 * libxl on the other side of stdin and stdout. When it is gone, a save goes the way of an abort, so
 * that libxenguest puts the guest back in order; it never just exits.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/xen/helper/helper.h"

void helper_abort(const struct helper *h)
{
    const uint64_t one = 1;
    int saved = errno;

    (void)!write(h->abort_fd, &one, sizeof(one));
    errno = saved;
}

static void desert(struct helper *h)
{
    h->is_deserted = true;
    helper_abort(h);
}

static void say(struct helper *h, const struct ha_writer *w)
{
    size_t done = 0;

    while (!h->is_deserted && !w->failed && done < w->position) {
        ssize_t n = write(STDOUT_FILENO, w->data + done, w->position - done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0 || errno != EINTR)
            desert(h);
    }
}

static int hear(struct helper *h)
{
    uint8_t answer[sizeof(int32_t)];
    size_t have = 0;

    while (!h->is_deserted && have < sizeof(answer)) {
        ssize_t n = read(STDIN_FILENO, answer + have, sizeof(answer) - have);
        if (n > 0)
            have += (size_t)n;
        else if (n == 0 || errno != EINTR)
            desert(h);
    }
    if (h->is_deserted)
        return -1;
    struct ha_reader r = ha_reader_of(answer, sizeof(answer));
    return (int)(int32_t)ha_get_u32(&r);
}

int helper_ask(struct helper *h, enum talk_type type)
{
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    talk_plain(&w, type);
    say(h, &w);
    return hear(h);
}

int helper_ask_qemu(struct helper *h, uint32_t domid, uint32_t is_on)
{
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    talk_qemu_logdirty(&w, domid, is_on);
    say(h, &w);
    return hear(h);
}

int helper_ask_static_done(struct helper *h, uint32_t missing)
{
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    talk_static_done(&w, missing);
    say(h, &w);
    return hear(h);
}

void helper_say_results(struct helper *h, uint64_t store_gfn, uint64_t console_gfn)
{
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    talk_results(&w, store_gfn, console_gfn);
    say(h, &w);
}

void helper_complete(struct helper *h, int outcome, int code)
{
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    talk_complete(&w, outcome, code);
    say(h, &w);
    (void)hear(h);
}

void helper_leave(struct helper *h)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    h->is_deserted = true;
    if (null < 0)
        return;
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(null, STDOUT_FILENO);
    close(null);
}

/* ---- what libxenguest logs ---- */

static void log_message(struct xentoollog_logger *logger, xentoollog_level level, int code,
                        const char *context, const char *format, va_list words)
{
    struct helper *h = (struct helper *)logger;
    char text[TALK_STRING_MAX];
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    vsnprintf(text, sizeof(text), format, words);
    if (h->is_deserted && level >= XTL_ERROR && h->words[0] == '\0')
        snprintf(h->words, sizeof(h->words), "%s", text);
    talk_log(&w, (uint32_t)level, (uint32_t)code, context ? context : "", text);
    say(h, &w);
}

static void log_progress(struct xentoollog_logger *logger, const char *context, const char *what,
                         int percent, unsigned long done, unsigned long total)
{
    struct helper *h = (struct helper *)logger;
    uint8_t bytes[TALK_MESSAGE_MAX];
    struct ha_writer w = ha_writer_of(bytes, sizeof(bytes));

    (void)percent;
    talk_progress(&w, context, what, done, total);
    say(h, &w);
}

static void keep(struct xentoollog_logger *logger)
{
    (void)logger;
}

void helper_log_init(struct helper *h)
{
    h->logger =
        (xentoollog_logger){.vmessage = log_message, .progress = log_progress, .destroy = keep};
}

void helper_error(struct helper *h, const char *text)
{
    xtl_log(&h->logger, XTL_ERROR, -1, "hamgr-xen-helper", "%s", text);
}
