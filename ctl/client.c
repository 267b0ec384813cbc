/* SPDX-License-Identifier: Apache-2.0
 *
 * The connection to this node's hamgrd, and the envelopes that come from it or stand for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qb/qbipcc.h>

#include "ctl/hactl.h"
#include "hamgr/server/request.h"

#define ANSWER_MS 35000 /* hamgrd itself ends a waiting request after 30 s */

static qb_ipcc_connection_t *connection;

void print_envelope(const json_t *envelope)
{
    char *text = json_dumps(envelope, JSON_INDENT(2));

    if (text)
        puts(text);
    free(text);
}

/* "hamgr.guest-add/1" for the command "guest add". */
static json_t *schema_name(void)
{
    char name[64];

    snprintf(name, sizeof(name), "hamgr.%s/1", current_command ? current_command->name : "error");
    for (char *at = name; *at; at++) {
        if (*at == ' ')
            *at = '-';
    }
    return json_string(name);
}

json_t *make_error(const char *code, const char *message, const char *fix)
{
    return json_pack("[{s:s, s:s, s:s}]", "code", code, "message", message, "fix", fix);
}

void print_document(const json_t *of, json_t *data, json_t *errors)
{
    json_t *generation = json_object_get(of, "generation"), *view = json_object_get(of, "view");
    json_t *all =
        json_pack("{s:o, s:O, s:O, s:o, s:o}", "schema", schema_name(), "generation",
                  generation ? generation : json_null(), "view", view ? view : json_null(), "data",
                  data ? data : json_null(), "errors", errors ? errors : json_array());

    print_envelope(all);
    json_decref(all);
}

int fail_locally(int code, const char *name, const char *message, const char *fix)
{
    if (is_json) {
        print_document(NULL, NULL, make_error(name, message, fix));
    } else {
        fprintf(stderr, "hactl: %s\n", message);
        if (fix[0])
            fprintf(stderr, "  try: %s\n", fix);
    }
    return code;
}

static bool send_text(const char *text)
{
    struct qb_ipc_request_header header = {.id = REQUEST_ID};
    size_t size = text ? strlen(text) : 0;
    struct iovec parts[2] = {{&header, sizeof(header)}, {(void *)(uintptr_t)text, size}};

    header.id = text ? REQUEST_ID : REQUEST_ID_NEXT;
    header.size = (int32_t)(sizeof(header) + size);
    return qb_ipcc_sendv(connection, parts, text ? 2 : 1) >= 0;
}

/* Collects the parts of one reply; NULL if the connection ends or time is up. */
static char *receive_text(size_t *ret_size)
{
    static char part[REQUEST_PART + sizeof(struct qb_ipc_response_header) + 64];
    char *text = NULL;
    size_t size = 0;

    for (;;) {
        ssize_t r = qb_ipcc_recv(connection, part, sizeof(part), ANSWER_MS);
        struct qb_ipc_response_header *header = (struct qb_ipc_response_header *)part;
        if (r < (ssize_t)sizeof(*header))
            break;
        size_t more = (size_t)r - sizeof(*header);
        char *grown = realloc(text, size + more + 1);
        if (!grown)
            break;
        text = grown;
        memcpy(text + size, part + sizeof(*header), more);
        size += more;
        if (header->error == 0) {
            *ret_size = size;
            return text;
        }
        if (!send_text(NULL))
            break;
    }
    free(text);
    return NULL;
}

static bool connect_once(void)
{
    if (!connection)
        connection = qb_ipcc_connect("hamgr", REQUEST_MAX);
    return connection != NULL;
}

bool can_ask(void)
{
    return connect_once();
}

json_t *ask(const char *cmd, json_t *request)
{
    size_t size = 0;
    json_t *envelope = NULL;

    json_object_set_new(request, "cmd", json_string(cmd));
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!connect_once()) {
        free(text);
        fail_locally(EXIT_NOT_REACHABLE, "unreachable",
                     errno == EACCES ? "hamgrd does not let you in: only root and the admin group"
                                     : "hamgrd does not answer on this node",
                     errno == EACCES ? "sudo hactl ..." : "systemctl status hamgrd");
        return NULL;
    }
    char *answer = text && send_text(text) ? receive_text(&size) : NULL;
    if (answer)
        envelope = json_loadb(answer, size, 0, NULL);
    if (envelope) /* the command's own, whatever verbs it is made of */
        json_object_set_new(envelope, "schema", schema_name());
    if (!envelope) {
        fail_locally(EXIT_NOT_REACHABLE, "unreachable", "the connection to hamgrd broke",
                     "repeat the command");
        qb_ipcc_disconnect(connection);
        connection = NULL;
    }
    free(text);
    free(answer);
    return envelope;
}

static int exit_of(const char *code)
{
    static const struct {
        const char *code;
        int exit;
    } table[] = {{"usage", EXIT_USAGE},
                 {"no-quorum", EXIT_NO_QUORUM},
                 {"unreachable", EXIT_NOT_REACHABLE},
                 {"outcome-unknown", EXIT_OUTCOME_UNKNOWN}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        if (strcmp(table[i].code, code) == 0)
            return table[i].exit;
    }
    return EXIT_REFUSED;
}

int check(const json_t *envelope)
{
    const json_t *errors = json_object_get(envelope, "errors");
    const json_t *error;
    size_t i;
    int code = EXIT_DONE;

    json_array_foreach(errors, i, error)
    {
        if (code == EXIT_DONE)
            code = exit_of(text_of(error, "code"));
        if (is_json)
            continue;
        fprintf(stderr, "hactl: %s\n", text_of(error, "message"));
        if (text_of(error, "fix")[0])
            fprintf(stderr, "  try: %s\n", text_of(error, "fix"));
    }
    return code;
}

int ask_and_tell(const char *cmd, json_t *request, const char *done_text)
{
    json_t *envelope = ask(cmd, request);

    if (!envelope)
        return EXIT_NOT_REACHABLE;
    int code = check(envelope);
    if (is_json)
        print_envelope(envelope);
    else if (code == EXIT_DONE && done_text)
        puts(done_text);
    json_decref(envelope);
    return code;
}

int ask_data(const char *cmd, json_t *request, json_t **ret_envelope, json_t **ret_data)
{
    *ret_envelope = ask(cmd, request);
    if (!*ret_envelope)
        return EXIT_NOT_REACHABLE;
    int code = check(*ret_envelope);
    if (code != EXIT_DONE) {
        if (is_json)
            print_envelope(*ret_envelope);
        json_decref(*ret_envelope);
        *ret_envelope = NULL;
        return code;
    }
    *ret_data = json_object_get(*ret_envelope, "data");
    return EXIT_DONE;
}
