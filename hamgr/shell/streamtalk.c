/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/shell/streamtalk.h"

#include <stdio.h>

#define DIALS_MS 1000u

bool streamtalk_is_news(struct streamtalk *talk, uint16_t type)
{
    bool *was_said = type == STREAMP_CONNECTED ? &talk->is_connected
                     : type == STREAMP_END     ? &talk->is_ended
                                               : NULL;

    if (!was_said)
        return true;
    bool is_news = !*was_said;
    *was_said = true;
    return is_news;
}

/* One line stays one line, whatever reads the log. */
static void blank_controls(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = ' ';
}

bool streamtalk_note(struct streamtalk *talk, const uint8_t *body, size_t size,
                     char ret_text[HA_TEXT_MAX])
{
    struct ha_reader r = ha_reader_of(body, size);

    if (talk->notes > STREAMP_NOTES_MAX)
        return false;
    ha_get_text(&r, ret_text, HA_TEXT_MAX);
    if (!ha_reader_is_done(&r))
        return false;
    blank_controls(ret_text);
    if (++talk->notes > STREAMP_NOTES_MAX)
        snprintf(
            ret_text, HA_TEXT_MAX,
            "it says more than hamgr-stream ever does (%u lines): nothing more of it is logged",
            STREAMP_NOTES_MAX);
    snprintf(talk->last, sizeof(talk->last), "%s", ret_text);
    return true;
}

const char *streamtalk_late(struct streamtalk *talk, const char *late)
{
    if (!late || talk->is_connected || talk->peer[0] == '\0')
        return late;
    snprintf(talk->late, sizeof(talk->late), "%.90s (%.60s%s%.90s)", late, talk->peer,
             talk->last[0] ? "; " : "", talk->last);
    return talk->late;
}

bool streamtalk_may_dial(struct streamtalk *talk, const char *address, uint16_t port,
                         uint64_t now_ms)
{
    snprintf(talk->peer, sizeof(talk->peer), "%.50s port %u", address, port);
    if (now_ms - talk->dials_ms >= DIALS_MS) {
        talk->dials_ms = now_ms;
        talk->dials = 0;
    }
    if (talk->dials == STREAMTALK_DIALS)
        return false;
    talk->dials++;
    return true;
}

struct ha_packing streamtalk_packing(const struct streamp_progress *progress)
{
    return (struct ha_packing){.is_known = true,
                               .level = progress->level,
                               .codec_mbit = progress->codec_mbit,
                               .link_mbit = progress->link_mbit};
}
