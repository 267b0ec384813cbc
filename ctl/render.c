/* SPDX-License-Identifier: Apache-2.0
 *
 * What commands share that is neither the connection nor the command line: reading of answers,
 * tables, waiting.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ctl/hactl.h"

#define POLL_MS 50u

uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void pause_ms(unsigned ms)
{
    struct timespec wait = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&wait, NULL);
}

const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

uint64_t number_of(const json_t *object, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(object, key));
}

bool is_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

json_t *find_named(const json_t *array, const char *name)
{
    json_t *item;
    size_t i;

    json_array_foreach(array, i, item)
    {
        if (strcmp(text_of(item, "name"), name) == 0)
            return item;
    }
    return NULL;
}

static int widest(const char *const *header, unsigned columns, const char *const *cells,
                  unsigned rows, unsigned column)
{
    size_t width = strlen(header[column]);

    for (unsigned row = 0; row < rows; row++) {
        size_t length = strlen(cells[row * columns + column]);
        if (length > width)
            width = length;
    }
    return (int)width;
}

static void print_row(const char *const *row, const int *widths, unsigned columns)
{
    for (unsigned i = 0; i + 1 < columns; i++)
        printf("%-*s  ", widths[i], row[i]);
    puts(row[columns - 1]);
}

void print_table(const char *const *header, unsigned columns, const char *const *cells,
                 unsigned rows)
{
    int widths[16];

    for (unsigned i = 0; i < columns && i < 16; i++)
        widths[i] = widest(header, columns, cells, rows, i);
    print_row(header, widths, columns);
    for (unsigned row = 0; row < rows; row++)
        print_row(&cells[row * columns], widths, columns);
}

const char *size_text(uint64_t kib, char *buffer)
{
    if (kib >= 10240 * 1024)
        snprintf(buffer, 32, "%llu.%llu GiB", (unsigned long long)(kib >> 20),
                 (unsigned long long)((kib & 0xfffff) * 10 >> 20));
    else
        snprintf(buffer, 32, "%llu MiB", (unsigned long long)(kib >> 10));
    return buffer;
}

const char *packing_text(const json_t *move, char *buffer)
{
    const json_t *level = json_object_get(move, "level");
    uint64_t link = number_of(move, "link_mbit"), codec = number_of(move, "codec_mbit");
    char how[24] = "stored", link_part[32] = "", codec_part[32] = "";

    buffer[0] = '\0';
    if (!json_is_integer(level))
        return buffer;
    if (json_integer_value(level) != 0)
        snprintf(how, sizeof(how), "zstd %d", (int)json_integer_value(level));
    if (link)
        snprintf(link_part, sizeof(link_part), "link %" PRIu64, link);
    if (codec)
        snprintf(codec_part, sizeof(codec_part), "codec %" PRIu64, codec);
    snprintf(buffer, PACKING_TEXT, ", %s%s%s%s%s%s", how, link || codec ? " (" : "", link_part,
             link && codec ? ", " : "", codec_part, link || codec ? " Mbit/s)" : "");
    return buffer;
}

/* What a status says about the wait: EXIT_DONE = it is so, -1 = not yet, else why it never will. */
static int judge_wait(const struct guest_wait *wanted, const json_t *line)
{
    char text[256];

    if (!line) {
        snprintf(text, sizeof(text), "there is no guest %.100s", wanted->guest);
        return fail_locally(EXIT_REFUSED, "not-found", text, "hactl guest list");
    }
    if (strcmp(text_of(line, "phase"), wanted->phase) == 0 &&
        number_of(line, "epoch") >= wanted->epoch_min)
        return EXIT_DONE;
    if (is_true(line, "failed") && strcmp(wanted->phase, "free") != 0) {
        char fix[160];
        snprintf(text, sizeof(text), "%s: %s", wanted->guest, text_of(line, "text"));
        snprintf(fix, sizeof(fix), "hactl explain %.100s", wanted->guest);
        return fail_locally(EXIT_REFUSED, "refused", text, fix);
    }
    return -1;
}

int wait_guest(const struct guest_wait *wanted, json_t **ret_envelope, const json_t **ret_guest)
{
    uint64_t end_ms = now_ms() + wanted->timeout_ms;
    char text[256];

    for (;;) {
        json_t *data;
        int code = ask_data("status", json_object(), ret_envelope, &data);
        if (code != EXIT_DONE)
            return code;
        *ret_guest = find_named(json_object_get(data, "guests"), wanted->guest);
        code = judge_wait(wanted, *ret_guest);
        if (code == EXIT_DONE)
            return code;
        snprintf(text, sizeof(text), "%s: %s", wanted->guest, text_of(*ret_guest, "text"));
        json_decref(*ret_envelope);
        *ret_envelope = NULL;
        *ret_guest = NULL;
        if (code > 0)
            return code;
        if (now_ms() >= end_ms)
            return fail_locally(EXIT_OUTCOME_UNKNOWN, "outcome-unknown", text,
                                "it goes on: look with hactl status");
        pause_ms(POLL_MS);
    }
}
