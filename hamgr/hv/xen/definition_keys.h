/* SPDX-License-Identifier: Apache-2.0
 *
 * What each key of a libxl_domain_config may hold: the tables behind definition.h. A key that is in
 * no table is refused; a new release of Xen that has new ones must be taught here first.
 */
#ifndef HAMGR_HV_XEN_DEFINITION_KEYS_H
#define HAMGR_HV_XEN_DEFINITION_KEYS_H

enum xen_key_kind {
    XEN_KEY_SCALAR = 1, /* a word, number or truth */
    XEN_KEY_TEXT,       /* free text without control characters */
    XEN_KEY_LIST,       /* of scalars */
    XEN_KEY_TREE,       /* of lists, objects and scalars; nothing in it names a file or program */
    XEN_KEY_PROGRAM,
    XEN_KEY_PATH,
    XEN_KEY_TARGET,  /* of a disk: a path, or what an allowed script makes of it */
    XEN_KEY_OBJECT,  /* see keys */
    XEN_KEY_OBJECTS, /* a list of such */
    XEN_KEY_NOT,     /* only nothing (false, "", [], ...); words say why */
};

struct xen_key {
    const char *name; /* NULL ends a table */
    enum xen_key_kind kind;
    const struct xen_key *keys;
    const char *words;
};

extern const struct xen_key xen_keys_root[];

#endif
