/* SPDX-License-Identifier: Apache-2.0
 *
 * hactl's parts: the table of commands, the connection to hamgrd, what all commands share. A
 * command parses its own words, asks, and renders: a JSON envelope with --json, else text for
 * people.
 */
#ifndef CTL_HACTL_H
#define CTL_HACTL_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

enum exit_code {
    EXIT_DONE = 0,
    EXIT_USAGE = 2,
    EXIT_REFUSED = 3,
    EXIT_NO_QUORUM = 4,
    EXIT_NOT_REACHABLE = 5,
    EXIT_OUTCOME_UNKNOWN = 6,
    EXIT_WARNINGS = 7, /* of doctor and guest check */
    EXIT_ERRORS = 8,
};

struct command {
    const char *name;    /* "guest add": one or two words */
    const char *summary; /* one line for the list */
    const char *usage;   /* what follows the name */
    const char *help;    /* options and an example */
    int (*run)(const struct command *command, int argc, char **argv); /* argv[0] = last word */
};

/* Each file's commands; all end with a NULL name. */
extern const struct command show_commands[];
extern const struct command guest_commands[];
extern const struct command move_commands[];
extern const struct command node_commands[];
extern const struct command cluster_commands[];
extern const struct command doctor_commands[];

/* True if --json was given anywhere. */
extern bool is_json;
/* The command that runs; NULL before it is known. */
extern const struct command *current_command;

/* ---- hactl.c ---- */
/* Prints what is wrong and how the command is used to stderr; returns EXIT_USAGE. */
int usage_error(const struct command *command, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* A number from 0 to max; false if text is not one. */
bool parse_number(const char *text, uint64_t max, uint64_t *ret_value);
/* "300ms", "5s", "2m" or plain ms; false if text is none. */
bool parse_ms(const char *text, uint64_t max_ms, uint64_t *ret_ms);
/* "64MiB", "2GiB", "512KiB"; false if text is none. */
bool parse_kib(const char *text, uint64_t *ret_kib);
/* Asks on the terminal for `name` to be typed; true if it was. If not, or with --json or without a
 * terminal, where nobody can be asked: false, and it was said. */
bool typed_name(const char *what, const char *name);

/* ---- client.c ---- */
/* Sends request (moved; "cmd" is set) and returns the envelope, or NULL after saying why on stderr
 * (or as an envelope with --json). */
json_t *ask(const char *cmd, json_t *request);
/* A hamgrd answers here; says nothing. */
bool can_ask(void);
/* The exit code an envelope stands for; prints its errors to stderr unless --json. */
int check(const json_t *envelope);
/* ask, check; with --json prints the envelope. Frees it. For commands without an answer to show,
 * prints done_text (may be NULL) on success. */
int ask_and_tell(const char *cmd, json_t *request, const char *done_text);
/* ask; *ret_data borrows the envelope's data, which the caller drops with json_decref(envelope). */
int ask_data(const char *cmd, json_t *request, json_t **ret_envelope, json_t **ret_data);
void print_envelope(const json_t *envelope);
/* The errors of an envelope: one. */
json_t *make_error(const char *code, const char *message, const char *fix);
/* Prints an envelope of this command with the generation and view of `of` (NULL: null) and with
 * data and errors (moved; NULL: null, none). A command with --json prints exactly one. */
void print_document(const json_t *of, json_t *data, json_t *errors);
/* For failures before hamgrd was asked: sentence and fix in the form asked for; returns code. */
int fail_locally(int code, const char *name, const char *message, const char *fix);

/* ---- render.c ---- */
uint64_t now_ms(void);
/* Waits between polls of an operation in flight. */
void pause_ms(unsigned ms);
const char *text_of(const json_t *object, const char *key);
uint64_t number_of(const json_t *object, const char *key);
bool is_true(const json_t *object, const char *key);
json_t *find_named(const json_t *array, const char *name); /* borrowed, NULL if absent */
/* Columns padded to their widest cell; rows of `columns` strings each. */
void print_table(const char *const *header, unsigned columns, const char *const *cells,
                 unsigned rows);
/* "512 MiB", "1.5 GiB" into buffer[32]. */
const char *size_text(uint64_t kib, char *buffer);
/* How a migration in flight packs its pages, into buffer[PACKING_TEXT]: ", zstd 1 (link 940,
 * codec 3200 Mbit/s)", ", stored"; empty while that is not known. */
#define PACKING_TEXT 128u
const char *packing_text(const json_t *move, char *buffer);

struct guest_wait {
    const char *guest;
    const char *phase;
    uint64_t epoch_min; /* an older copy does not count */
    uint64_t timeout_ms;
};

/* Waits until the guest is so. On success *ret_envelope is the status that shows it (the caller
 * drops it) and *ret_guest its line, borrowed from it; prints nothing then. EXIT_OUTCOME_UNKNOWN
 * at the end of the time; other codes when it can't come true. */
int wait_guest(const struct guest_wait *wanted, json_t **ret_envelope, const json_t **ret_guest);

/* ---- drain.c ---- */
/* Waits until the node owns no guest and no migration has an end there; *ret_envelope is the status
 * that says so, the caller's. Meanwhile people are told how many are left, and of a guest that
 * stays why. EXIT_OUTCOME_UNKNOWN at the end of the time. */
int wait_drained(const char *node, uint64_t timeout_ms, json_t **ret_envelope);

#endif
