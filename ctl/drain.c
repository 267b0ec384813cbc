/* SPDX-License-Identifier: Apache-2.0
 *
 * Waits until a node is empty, and says meanwhile what keeps a guest there: a drain respects each
 * guest's contract, so one whose pause would be too long stays until somebody decides.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ctl/hactl.h"

#define POLL_MS 200u
/* How often hamgrd is asked for failed moves: it goes through its history for that. */
#define LOOK_MS 2000u
/* No guest of the node has moved for so long: between two moves there is one commit, < 0.5 s. */
#define STUCK_MS 5000u

struct drain {
    const char *node;
    uint64_t seen;     /* index of the newest migration that was looked at */
    uint64_t look_ms;  /* when the next look is due */
    uint64_t still_ms; /* since when nothing moves */
    uint64_t left;     /* guests, as was said last */
    json_t *told;      /* guest -> what was said of it */
    char last[512];    /* the newest of that */
};

/* A migration that is decided and not yet over: its source still has a copy to remove. */
static bool is_moving(const json_t *moves, const char *node)
{
    const json_t *move;
    size_t i;

    json_array_foreach(moves, i, move)
    {
        if (strcmp(text_of(move, "from"), node) == 0 || strcmp(text_of(move, "to"), node) == 0)
            return true;
    }
    return false;
}

/* Each new word about a guest once. */
static void tell(struct drain *d, const char *guest, const char *words)
{
    if (strcmp(text_of(d->told, guest), words) == 0)
        return;
    json_object_set_new(d->told, guest, json_string(words));
    snprintf(d->last, sizeof(d->last), "%s", words);
    puts(words);
}

static void tell_failed(struct drain *d, const json_t *move)
{
    const char *guest = text_of(move, "guest"), *reason = text_of(move, "reason");
    char words[512], way_out[128] = "";

    if (strstr(reason, "--max-downtime"))
        snprintf(way_out, sizeof(way_out),
                 "\n  hactl migrate %.64s --on-slow pause moves it whatever its pause", guest);
    snprintf(words, sizeof(words), "%.64s did not move: %.250s%s", guest, reason, way_out);
    tell(d, guest, words);
}

/* Migrations from the node that ended there, and are not known yet; the first look only notes which
 * are old. Silent when it can't be asked: the next status says so. */
static void look_at_moves(struct drain *d, bool is_first)
{
    json_t *envelope, *data;
    const json_t *move;
    size_t i;

    d->look_ms = now_ms() + LOOK_MS;
    if (ask_data("migrations", json_pack("{s:i}", "count", 100), &envelope, &data) != EXIT_DONE)
        return;
    json_array_foreach(json_object_get(data, "migrations"), i, move)
    {
        uint64_t index = number_of(move, "index");
        if (index <= d->seen)
            continue;
        d->seen = index;
        if (!is_first && strcmp(text_of(move, "from"), d->node) == 0 && text_of(move, "reason")[0])
            tell_failed(d, move);
    }
    json_decref(envelope);
}

/* Of those that stay without a try there is no record: where could they go? */
static void look_at_guests(struct drain *d, const json_t *guests)
{
    const json_t *guest;
    size_t i;

    json_array_foreach(guests, i, guest)
    {
        const char *name = text_of(guest, "name");
        json_t *envelope, *data;
        char words[512];
        if (strcmp(text_of(guest, "node"), d->node) != 0 || json_object_get(d->told, name))
            continue;
        if (ask_data("explain", json_pack("{s:s}", "guest", name), &envelope, &data) != EXIT_DONE)
            return;
        snprintf(words, sizeof(words), "%.300s (hactl explain %.64s)", text_of(data, "summary"),
                 name);
        tell(d, name, words);
        json_decref(envelope);
    }
}

/* Says what is new, to people: a question that fails says so at once, and with --json that would be
 * a second document. */
static void follow(struct drain *d, const json_t *status, bool is_change)
{
    uint64_t now = now_ms();

    if (is_change)
        printf("%" PRIu64 " guests left on %.100s\n", d->left, d->node);
    if (is_change || is_moving(json_object_get(status, "moves"), d->node))
        d->still_ms = now;
    if (now >= d->look_ms)
        look_at_moves(d, false);
    if (now - d->still_ms >= STUCK_MS)
        look_at_guests(d, json_object_get(status, "guests"));
    fflush(stdout);
}

static int say_timeout(const struct drain *d)
{
    char message[768];

    snprintf(message, sizeof(message), "%" PRIu64 " guests left on %.100s%s%s", d->left, d->node,
             d->last[0] ? "; " : "", d->last);
    return fail_locally(EXIT_OUTCOME_UNKNOWN, "timeout", message,
                        "it goes on: hactl explain GUEST names what keeps one");
}

static int wait_empty(struct drain *d, uint64_t end_ms, json_t **ret_envelope)
{
    for (;;) {
        json_t *data;
        int code = ask_data("status", json_object(), ret_envelope, &data);
        if (code != EXIT_DONE)
            return code;
        const json_t *line = find_named(json_object_get(data, "nodes"), d->node);
        uint64_t left = number_of(line, "guests");
        if (left == 0 && !is_moving(json_object_get(data, "moves"), d->node))
            return EXIT_DONE;
        bool is_change = left != d->left;
        d->left = left;
        if (!is_json)
            follow(d, data, is_change);
        json_decref(*ret_envelope);
        *ret_envelope = NULL;
        if (now_ms() >= end_ms)
            return say_timeout(d);
        pause_ms(POLL_MS);
    }
}

int wait_drained(const char *node, uint64_t timeout_ms, json_t **ret_envelope)
{
    uint64_t now = now_ms();
    struct drain d = {.node = node, .still_ms = now, .left = UINT64_MAX, .told = json_object()};

    if (!is_json)
        look_at_moves(&d, true);
    int code = wait_empty(&d, now + timeout_ms, ret_envelope);
    json_decref(d.told);
    return code;
}
