/* SPDX-License-Identifier: Apache-2.0
 *
 * One operator's request inside hamgrd: JSON in, one JSON reply out, at once or when its proposal's
 * fate is known. Wire: libqb IPC over sockets; message id 1 carries a request, id 2 asks for the
 * next part of a long reply; each answer is a qb response header (error = 0, or 1 while more parts
 * follow) and a part of the JSON text, at most REQUEST_PART bytes.
 */
#ifndef HAMGR_SERVER_REQUEST_H
#define HAMGR_SERVER_REQUEST_H

#include <jansson.h>

#include "hamgr/server/api.h"

#define REQUEST_ID      1
#define REQUEST_ID_NEXT 2
#define REQUEST_PART    (64u * 1024)
#define REQUEST_MAX     (128u * 1024) /* a definition in base64 and its frame */

struct request; /* server.c */

typedef void (*request_then)(struct request *r, uint64_t index);

const struct server_api *request_api(const struct request *r);
const struct ha_state *request_state(const struct request *r);
/* "operator NAME" (or uid), from the kernel's word about the peer. static in r */
const char *request_actor(const struct request *r);
const json_t *request_args(const struct request *r);
/* A string argument, or NULL (not given, or not a string). */
const char *request_text(const struct request *r, const char *key);
/* A JSON string of text that may come from anywhere: what is no UTF-8 (cut in a character, from an
 * agent's output) is shown as "?". Without this a reply could not be made at all. */
json_t *request_string(const char *text);
/* Ends the request with data (moved). */
void request_reply(struct request *r, json_t *data);
/* Ends it with one error. code: HA_E_*. fix: the smallest change that helps; NULL or "": the answer
 * says where to look. */
void request_refuse(struct request *r, int code, const char *message, const char *fix);
/* Refuses early with ha_refusal's words, else proposes; `then` is called when it took effect (NULL
 * = reply {"index": N}). In all other cases the request ends here with the reason. */
void request_propose(struct request *r, struct ha_cmd *cmd, request_then then);
void request_propose_voter(struct request *r, bool is_added, uint32_t node, struct ha_uuid store_id,
                           request_then then);
/* A place for a verb to keep something between its steps (freed with free()). */
void *request_keep(struct request *r, size_t size);
void *request_kept(struct request *r);

/* For answers that come otherwise than by a proposal: its number, to be found again by request_find
 * (NULL: it is over), within the time a client waits. */
uint64_t request_wait(struct request *r);
struct request *request_find(uint64_t number);

/* The guest or node an argument names; refuses and returns NULL if there is none. */
const struct ha_guest *request_guest(struct request *r, const char *key);
const struct ha_node *request_node(struct request *r, const char *key);

struct verb {
    const char *name;
    bool is_admin; /* changes something */
    void (*run)(struct request *r);
    const char *const *keys; /* the arguments it knows, ends with NULL; NULL: none */
};

extern const struct verb show_verbs[];   /* show.c; all end with a NULL name */
extern const struct verb change_verbs[]; /* change.c */
extern const struct verb doctor_verbs[]; /* doctor.c */
extern const struct verb check_verbs[];  /* check.c */

/* Every node that answered lacks something (check.c); who did not answer can't start it now either.
 */
bool check_is_nowhere(const struct server_checked *checked);
/* Says what each node lacks and how to mend it, or what to do instead (NULL not allowed). */
void check_refuse(struct request *r, const struct server_checked *checked, const char *or_else);

#endif
