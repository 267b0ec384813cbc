/* SPDX-License-Identifier: Apache-2.0
 *
 * The two pages of a PV guest that the tools' daemons look at: its rings to xenstored and to
 * xenconsoled. Where a restore knows early which they are, libxl can make the domain's devices
 * while memory is still on its way (restore.c). Pure.
 *
 * Which they are the guest says only when it suspends, so the save says it before the first page,
 * in a record of its own:
 *
 *   u32 type 0x80486d68 | u32 length 16 | u64 pfn, xenstored | u64 pfn, xenconsoled
 *
 * Bit 31: whoever does not know it passes it by, as libxenguest's own restore does.
 *
 * On their way in both pages are taken out of the stream and held back, the newest of each, and
 * zeros are written in their place: to a daemon a ring that is idle. With the source's live ring it
 * would find a request under way, and carry it out for a guest that runs elsewhere.
 */
#ifndef HAMGR_HV_XEN_HELPER_RINGS_H
#define HAMGR_HV_XEN_HELPER_RINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RINGS_PAGE   4096u
#define RINGS_RECORD 24u                         /* bytes of the record */
#define RINGS_BLANKS (24u + 2 * RINGS_PAGE + 8u) /* of the record of both pages, blank */
#define RINGS_AHEAD  (RINGS_RECORD + RINGS_BLANKS)

enum rings_which { RINGS_STORE = 0, RINGS_CONSOLE, RINGS_COUNT };

/* pfns[RINGS_COUNT], two different ones, as the record. Behind it one of both pages, blank, as of
 * any page data: they are made at once, and not when a round over the memory comes to them. That
 * round, the first, sends every page the guest has, these as well. */
void rings_write(uint8_t ret_bytes[RINGS_AHEAD], const uint64_t *pfns);

struct ring_page {
    uint64_t pfn;
    uint64_t frame; /* of the new domain */
    bool has_frame;
    bool is_held;
    uint8_t held[RINGS_PAGE];
};

/* A native stream's libxc image as libxenguest reads it, read for read. */
struct rings {
    struct ring_page pages[RINGS_COUNT];
    bool is_known; /* the record has come */
    bool is_lost;  /* not read as expected: nothing is held any more, nothing is early */
    /* private */
    uint32_t heads; /* of the image's two, read so far */
    bool is_in_body;
    uint32_t type, length; /* of the record being read */
};

void rings_init(struct rings *r);
/* libxenguest has read size bytes into data, and gets them changed. */
void rings_read(struct rings *r, uint8_t *data, size_t size);

/* Where among pfns[count], which are about to be populated, the rings' are; UINT64_MAX: not. */
void rings_find(const struct rings *r, const uint64_t *pfns, uint64_t count,
                uint64_t ret_at[RINGS_COUNT]);
/* frames: what became of the same array. */
void rings_populated(struct rings *r, const uint64_t *frames, const uint64_t *at);

/* Asked before a read: are both pages there, blank? */
bool rings_are_blank(const struct rings *r);

/* The page as the guest is to have it, over what is at page. is_in_use: a daemon looks at it.
 *
 * xenstored begins a ring of its own when a domain is introduced: it clears the four indexes,
 * whatever they were, and owns what is behind them; both stay then. Of a console ring a daemon
 * reads two indexes one after the other, so each pair changes at once; what it may make of one old
 * and one new is no or a repeated line. */
void rings_put_store(uint8_t *page, const uint8_t *held, bool is_in_use);
void rings_put_console(uint8_t *page, const uint8_t *held);

#endif
