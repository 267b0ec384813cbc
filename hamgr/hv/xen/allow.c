/* SPDX-License-Identifier: Apache-2.0 */
#include "hamgr/hv/xen/allow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

bool xen_is_base_name(const char *text)
{
    size_t size = strlen(text);

    if (size == 0 || size >= XEN_ALLOW_BYTES || text[0] == '.' || text[0] == '-')
        return false;
    for (size_t n = 0; n < size; n++) {
        char c = text[n];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

bool xen_is_plain_path(const char *text)
{
    size_t size = strlen(text);

    if (text[0] != '/' || size < 2 || size >= XEN_ALLOW_BYTES)
        return false;
    for (const char *part = text; part; part = strchr(part + 1, '/')) {
        size_t length = strcspn(part + 1, "/");
        if (length == 0 || (length == 1 && part[1] == '.') ||
            (length == 2 && part[1] == '.' && part[2] == '.'))
            return false;
    }
    for (size_t n = 0; n < size; n++)
        if (text[n] < ' ' || text[n] > '~')
            return false;
    return true;
}

bool xen_allow_has_program(const struct xen_allow *allow, const char *name)
{
    for (uint32_t n = 0; n < allow->program_count; n++)
        if (strcmp(allow->program[n], name) == 0)
            return true;
    return false;
}

bool xen_allow_has_path(const struct xen_allow *allow, const char *path)
{
    for (uint32_t n = 0; n < allow->root_count; n++) {
        size_t size = strlen(allow->root[n]);
        if (strncmp(allow->root[n], path, size) == 0 && path[size] == '/')
            return true;
    }
    return false;
}

struct load {
    struct xen_allow *allow;
    struct ha_err *err;
    int rc;
};

static int take(void *user, const char *section, const char *name, const char *value)
{
    struct load *l = user;
    bool is_program = strcmp(name, "program") == 0;
    uint32_t *count = is_program ? &l->allow->program_count : &l->allow->root_count;

    if (l->rc != 0)
        return 0;
    if (section[0] != '\0' || (!is_program && strcmp(name, "root") != 0))
        l->rc = ha_err_set(l->err, HA_E_USAGE, "%.40s: expected program or root", name);
    else if (is_program && !xen_is_base_name(value))
        l->rc = ha_err_set(l->err, HA_E_USAGE, "program = %.80s: expected a base name", value);
    else if (!is_program && !xen_is_plain_path(value))
        l->rc = ha_err_set(l->err, HA_E_USAGE, "root = %.80s: expected an absolute path", value);
    else if (*count == XEN_ALLOW_MAX)
        l->rc = ha_err_set(l->err, HA_E_LIMIT, "%s: more than %u", name, XEN_ALLOW_MAX);
    if (l->rc != 0)
        return 0;
    char *to = is_program ? l->allow->program[*count] : l->allow->root[*count];
    snprintf(to, XEN_ALLOW_BYTES, "%s", value);
    (*count)++;
    return 1;
}

static int check_owner(FILE *file, struct ha_err *err)
{
    struct stat info;

    if (fstat(fileno(file), &info) != 0)
        return ha_err_set(err, errno, "%s", strerror(errno));
    if (info.st_uid != 0 || (info.st_mode & (S_IWGRP | S_IWOTH)) != 0 || !S_ISREG(info.st_mode))
        return ha_err_set(err, HA_E_REFUSED,
                          "expected a file of root's that nobody else may write to");
    return 0;
}

int xen_allow_load(const char *path, struct xen_allow *ret, struct ha_err *err)
{
    struct load l = {.allow = ret, .err = err};

    memset(ret, 0, sizeof(*ret));
    FILE *file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? 0 : ha_err_set(err, errno, "%s: %s", path, strerror(errno));
    int rc = check_owner(file, err);
    int line = rc == 0 ? ini_parse_file(file, take, &l) : 0;
    fclose(file);
    if (rc == 0)
        rc = l.rc;
    if (rc == 0 && line != 0)
        rc = ha_err_set(err, HA_E_USAGE, "expected word = value");
    if (rc != 0 && line > 0)
        ha_err_prefix(err, "%s line %d", path, line);
    else if (rc != 0)
        ha_err_prefix(err, "%s", path);
    return rc;
}
