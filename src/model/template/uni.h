/* uni.h - what Python's str knows about characters: white space, case, printing.
 * Owns nothing; any thread; no limits; no errors. Text is valid UTF-8 (checked where it comes in). */
#ifndef AG_TEMPLATE_UNI_H
#define AG_TEMPLATE_UNI_H

#include "base/base.h"

typedef enum ag_uni_case { AG_UNI_UPPER, AG_UNI_LOWER, AG_UNI_TITLE, AG_UNI_FOLD } ag_uni_case;

uint32_t ag__uni_next(const char **p, const char *end);       /* p < end; moves on */
uint32_t ag__uni_prev(const char *begin, const char **p);     /* begin < p; moves back */
size_t ag__uni_count(const char *p, size_t n);
bool ag__uni_ascii(const char *p, size_t n);
size_t ag__uni_offset(const char *p, size_t n, size_t chars); /* bytes of the first `chars` characters */
bool ag__uni_space(uint32_t cp);
bool ag__uni_line_end(uint32_t cp);
bool ag__uni_word(uint32_t cp);      /* \w */
bool ag__uni_alpha(uint32_t cp);
bool ag__uni_decimal(uint32_t cp);
bool ag__uni_digit(uint32_t cp);
bool ag__uni_numeric(uint32_t cp);
bool ag__uni_lower(uint32_t cp);
bool ag__uni_upper(uint32_t cp);
bool ag__uni_titled(uint32_t cp);
bool ag__uni_cased(uint32_t cp);
bool ag__uni_printable(uint32_t cp);
/* Full mapping of one character into at most 3 others; returns how many. */
int ag__uni_map(uint32_t cp, ag_uni_case to, uint32_t out[3]);
/* The lower form of a capital sigma at `at` depends on its neighbours. */
bool ag__uni_final_sigma(const char *begin, const char *at, const char *end);
const char *ag__uni_strip_left(const char *p, const char *end);
const char *ag__uni_strip_right(const char *p, const char *end);

#endif
