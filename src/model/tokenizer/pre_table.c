/* The pre-tokenizers by name. The expressions are those of the models' own tokenizer.json (Rust and Python syntax);
 * each rule stands under its expression. Where a converter had to approximate one for its own regular expressions, the
 * model's is taken. */
#include "model/tokenizer/pre.h"

static const ag__class letter = {.mask = AG__LETTER};
static const ag__class letter_mark = {.mask = AG__LETTER | AG__MARK};
static const ag__class number = {.mask = AG__NUMBER};
static const ag__class ascii_digit = {.mask = AG__ASCII_DIGIT};
static const ag__class ascii_letter = {.mask = AG__ASCII_LETTER};
static const ag__class ascii_punct = {.mask = AG__ASCII_PUNCT};
static const ag__class punct = {.mask = AG__PUNCT};
static const ag__class punct_symbol = {.mask = AG__PUNCT | AG__SYMBOL};
static const ag__class punct_math = {.mask = AG__PUNCT | AG__ASCII_MATH};
static const ag__class punct_math_tick = {.mask = AG__PUNCT | AG__ASCII_MATH | AG__BACKTICK};
static const ag__class blank = {.mask = AG__BLANK};
static const ag__class space = {.mask = AG__SPACE};
static const ag__class crlf = {.mask = AG__CRLF};
static const ag__class crlf_slash = {.mask = AG__CRLF | AG__SLASH};
static const ag__class other = {.mask = AG__SPACE | AG__LETTER | AG__NUMBER, .invert = true};
static const ag__class other_not_mark = {.mask = AG__SPACE | AG__LETTER | AG__NUMBER | AG__MARK, .invert = true};
static const ag__class word_lead = {.mask = AG__CRLF | AG__LETTER | AG__NUMBER, .invert = true};
static const ag__class word_lead_v3 = {.mask = AG__CRLF | AG__LETTER | AG__PUNCT | AG__SYMBOL, .invert = true};

/* [一-龥぀-ゟ゠-ヿ] and [一-龥ࠀ-一가-퟿] */
static const ag__range han_kana_ranges[] = {{0x3040, 0x30ff}, {0x4e00, 0x9fa5}};
static const ag__range east_ranges[] = {{0x0800, 0x9fa5}, {0xac00, 0xd7ff}};
/* The cased letters that deepseek-llm lists one by one. */
static const ag__range cased_ranges[] = {
    {0x41, 0x5a}, {0x61, 0x7a}, {0xb5, 0xb5}, {0xc0, 0xd6}, {0xd8, 0xf6}, {0xf8, 0x1ba}, {0x1bc, 0x1bf},
    {0x1c4, 0x293}, {0x295, 0x2af}, {0x370, 0x373}, {0x376, 0x377}, {0x37b, 0x37d}, {0x37f, 0x37f}, {0x386, 0x386},
    {0x388, 0x38a}, {0x38c, 0x38c}, {0x38e, 0x3a1}, {0x3a3, 0x3f5}, {0x3f7, 0x481}, {0x48a, 0x52f}, {0x531, 0x556},
    {0x10a0, 0x10c5}, {0x13a0, 0x13f5}, {0x13f8, 0x13fd}, {0x1c90, 0x1cba}, {0x1cbd, 0x1cbf}, {0x1d00, 0x1d2b},
    {0x1d6b, 0x1d77}, {0x1d79, 0x1d9a}, {0x1e00, 0x1f15}, {0x1f18, 0x1f1d}, {0x1f20, 0x1f45}, {0x1f48, 0x1f4d},
    {0x1f50, 0x1f57}, {0x1f59, 0x1f59}, {0x1f5b, 0x1f5b}, {0x1f5d, 0x1f5d}, {0x1f5f, 0x1f7d}, {0x1f80, 0x1fb4},
    {0x1fb6, 0x1fbc}, {0x1fbe, 0x1fbe}, {0x1fc2, 0x1fc4}, {0x1fc6, 0x1fcc}, {0x1fd0, 0x1fd3}, {0x1fd6, 0x1fdb},
    {0x1fe0, 0x1fec}, {0x1ff2, 0x1ff4}, {0x1ff6, 0x1ffc}, {0x2102, 0x2102}, {0x2107, 0x2107}, {0x210a, 0x2113},
    {0x2115, 0x2115}, {0x2119, 0x211d}, {0x2124, 0x2124}, {0x2126, 0x2126}, {0x2128, 0x2128}, {0x212a, 0x212d},
    {0x212f, 0x2134}, {0x2139, 0x2139}, {0x213c, 0x213f}, {0x2145, 0x2149}, {0x214e, 0x214e}, {0x2183, 0x2184},
    {0x2c00, 0x2c7b}, {0x2c7e, 0x2ce4}, {0x2ceb, 0x2cee}, {0x2cf2, 0x2cf3}, {0xa640, 0xa66d}, {0xa680, 0xa69b},
    {0xa722, 0xa76f}, {0xa771, 0xa787}, {0xa78b, 0xa78e}, {0xab70, 0xabbf}, {0xfb00, 0xfb06}, {0xfb13, 0xfb17},
    {0xff21, 0xff3a}, {0xff41, 0xff5a}, {0x10400, 0x1044f}, {0x104b0, 0x104d3}, {0x104d8, 0x104fb},
    {0x10c80, 0x10cb2}, {0x10cc0, 0x10cf2}, {0x118a0, 0x118df}, {0x1e900, 0x1e943}};
/* [!-/:-~！-／：-～‘-‟　-。] */
static const ag__range mark_ranges[] = {{0x21, 0x2f}, {0x3a, 0x7e}, {0x2018, 0x201f}, {0x3000, 0x3002},
                                        {0xff01, 0xff0f}, {0xff1a, 0xff5e}};
/* [(\s|.,!?…。，、।۔،)], the spaces by their bit */
static const ag__range poro_ranges[] = {{'!', '!'}, {'(', ')'}, {',', ','}, {'.', '.'}, {'?', '?'}, {'|', '|'},
                                        {0x60c, 0x60c}, {0x6d4, 0x6d4}, {0x964, 0x964}, {0x2026, 0x2026},
                                        {0x3001, 0x3002}, {0xff0c, 0xff0c}};

#define RANGES(r) .ranges = (r), .n_ranges = AG_ARRAY_LEN(r)
static const ag__class han_kana = {RANGES(han_kana_ranges)};
static const ag__class east = {RANGES(east_ranges)};
static const ag__class cased = {RANGES(cased_ranges)};
static const ag__class mark = {RANGES(mark_ranges)};
static const ag__class poro = {.mask = AG__SPACE, RANGES(poro_ranges), .invert = true};

#define RUN(...) {.match = ag__rule_run, __VA_ARGS__}
#define CONTRACTION {.match = ag__rule_contraction}
#define CONTRACTION_ANY_CASE {.match = ag__rule_contraction_any_case}
#define NEWLINES {.match = ag__rule_newlines}
#define SPACES {.match = ag__rule_spaces_not_last}, {.match = ag__rule_spaces}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static const ag__rule gpt2_rules[] = {
    CONTRACTION, RUN(.lead = &blank, .body = &letter), RUN(.lead = &blank, .body = &number),
    RUN(.lead = &blank, .body = &other), SPACES};
/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ */
static const ag__rule llama3_rules[] = {
    CONTRACTION_ANY_CASE, RUN(.lead = &word_lead, .body = &letter), RUN(.body = &number, .max = 3),
    RUN(.lead = &blank, .body = &other, .tail = &crlf), NEWLINES, SPACES};
/* the same with \p{N} */
static const ag__rule qwen2_rules[] = {
    CONTRACTION_ANY_CASE, RUN(.lead = &word_lead, .body = &letter), RUN(.body = &number, .max = 1),
    RUN(.lead = &blank, .body = &other, .tail = &crlf), NEWLINES, SPACES};
/* the same with marks among the letters: [\p{L}\p{M}]+ and [^\s\p{L}\p{M}\p{N}]+ */
static const ag__rule qwen35_rules[] = {
    CONTRACTION_ANY_CASE, RUN(.lead = &word_lead, .body = &letter_mark), RUN(.body = &number, .max = 1),
    RUN(.lead = &blank, .body = &other_not_mark, .tail = &crlf), NEWLINES, SPACES};
/* qwen2's with ' ?[^\s\p{L}\p{N}\r\n]+' */
static const ag__rule seed_rules[] = {
    CONTRACTION_ANY_CASE, RUN(.lead = &word_lead, .body = &letter), RUN(.body = &number, .max = 1),
    RUN(.lead = &blank, .body = &other), NEWLINES, SPACES};
/* [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+
 * |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*
 * |\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
static const ag__rule tekken_rules[] = {
    {.match = ag__rule_cased, .lead = &word_lead}, RUN(.body = &number, .max = 1),
    RUN(.lead = &blank, .body = &other, .tail = &crlf_slash), NEWLINES, SPACES};
/* the same with (?i:'s|'t|'re|'ve|'m|'ll|'d)? behind both words, and \p{N}{1,3} */
static const ag__rule gpt4o_rules[] = {
    {.match = ag__rule_cased, .lead = &word_lead, .suffix = true}, RUN(.body = &number, .max = 3),
    RUN(.lead = &blank, .body = &other, .tail = &crlf_slash), NEWLINES, SPACES};
/* [!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+ */
static const ag__rule v3_rules[] = {
    RUN(.lead = &ascii_punct, .lead_needed = true, .body = &ascii_letter),
    RUN(.lead = &word_lead_v3, .body = &letter_mark),
    RUN(.lead = &blank, .body = &punct_symbol, .tail = &crlf), NEWLINES, SPACES};

/* Passes of one rule. */
static const ag__rule number_1[] = {RUN(.body = &number, .max = 1)};
static const ag__rule number_1_3[] = {RUN(.body = &number, .max = 3)};
static const ag__rule number_any[] = {RUN(.body = &number)};
static const ag__rule digit_3[] = {RUN(.body = &ascii_digit, .min = 3, .max = 3)};
static const ag__rule line_end[] = {RUN(.body = &crlf, .max = 1)};
static const ag__rule space_cased[] = {RUN(.lead = &space, .body = &cased)};
static const ag__rule space_mark[] = {RUN(.lead = &space, .body = &mark)};
static const ag__rule space_letter[] = {RUN(.lead = &space, .body = &letter)};
static const ag__rule space_punct[] = {RUN(.lead = &space, .body = &punct)};
static const ag__rule spaces_at_end[] = {{.match = ag__rule_spaces_at_end}};
static const ag__rule east_run[] = {RUN(.body = &east)};
static const ag__rule han_kana_run[] = {RUN(.body = &han_kana)};
static const ag__rule punct_math_run[] = {RUN(.body = &punct_math)};
static const ag__rule punct_tick_run[] = {RUN(.body = &punct_math_tick)};
static const ag__rule poro_rules[] = {RUN(.lead = &blank, .body = &poro)};

#define PASS(r) {(r), AG_ARRAY_LEN(r)}
static const ag__pass none_given[] = {PASS(punct_math_run), PASS(gpt2_rules), PASS(number_any), PASS(digit_3)};
static const ag__pass gpt2[] = {PASS(gpt2_rules)};
static const ag__pass smollm[] = {PASS(number_1), PASS(gpt2_rules)};
static const ag__pass falcon[] = {PASS(punct_tick_run), PASS(gpt2_rules), PASS(digit_3)};
static const ag__pass llama3[] = {PASS(llama3_rules)};
static const ag__pass minicpm5[] = {PASS(number_1_3), PASS(llama3_rules)};
static const ag__pass qwen2[] = {PASS(qwen2_rules)};
static const ag__pass qwen35[] = {PASS(qwen35_rules)};
static const ag__pass seed[] = {PASS(seed_rules)};
static const ag__pass tekken[] = {PASS(tekken_rules)};
static const ag__pass gpt4o[] = {PASS(gpt4o_rules)};
static const ag__pass deepseek_llm[] = {PASS(line_end), PASS(space_cased), PASS(space_mark), PASS(spaces_at_end),
                                        PASS(east_run), PASS(number_any)};
static const ag__pass deepseek_coder[] = {PASS(line_end), PASS(space_letter), PASS(space_punct), PASS(east_run),
                                          PASS(number_1)};
static const ag__pass deepseek_v3[] = {PASS(number_1_3), PASS(han_kana_run), PASS(v3_rules)};
static const ag__pass poro_chat[] = {PASS(poro_rules)};
static const ag__pass viking[] = {PASS(poro_rules), PASS(number_1)};

#define PRE(nm, ps, ...) {.name = (nm), .passes = (ps), .n_passes = AG_ARRAY_LEN(ps), __VA_ARGS__}
static const ag__pre table[] = {
    PRE("default", none_given),
    PRE("llama-bpe", llama3, .whole_first = true, .add_bos = true),
    PRE("llama3", llama3, .whole_first = true, .add_bos = true),
    PRE("llama-v3", llama3, .whole_first = true, .add_bos = true),
    PRE("falcon3", llama3, .whole_first = true, .add_bos = true),
    PRE("falcon-h1", llama3, .whole_first = true, .add_bos = true),
    PRE("pixtral", llama3, .whole_first = true, .add_bos = true),
    PRE("midm-2.0", llama3, .whole_first = true, .add_bos = true),
    PRE("lfm2", llama3, .whole_first = true, .add_bos = true),
    PRE("minicpm5", minicpm5, .whole_first = true),
    PRE("dbrx", llama3),
    PRE("smaug-bpe", llama3),
    PRE("glm4", llama3),
    PRE("chatglm-bpe", llama3),
    PRE("qwen2", qwen2),
    PRE("deepseek-r1-qwen", qwen2),
    PRE("megrez", qwen2),
    PRE("stablelm2", qwen2),
    PRE("hunyuan", qwen2),
    PRE("kormo", qwen2),
    PRE("grok-2", qwen2),
    PRE("solar-open", qwen2),
    PRE("bailingmoe", qwen2),
    PRE("bailingmoe2", qwen2),
    PRE("llada-moe", qwen2),
    PRE("qwen35", qwen35),
    PRE("seed-coder", seed),
    PRE("tekken", tekken, .whole_first = true, .add_bos = true),
    PRE("gpt-4o", gpt4o),
    PRE("llama4", gpt4o),
    PRE("kanana2", gpt4o),
    PRE("minimax-m2", gpt4o),
    PRE("deepseek-llm", deepseek_llm),
    PRE("deepseek-coder", deepseek_coder),
    PRE("deepseek-v3", deepseek_v3),
    PRE("hunyuan-dense", deepseek_v3),
    PRE("joyai-llm", deepseek_v3),
    PRE("falcon", falcon),
    PRE("gpt-2", gpt2),
    PRE("phi-2", gpt2),
    PRE("mpt", gpt2),
    PRE("olmo", gpt2),
    PRE("jais", gpt2),
    PRE("trillion", gpt2),
    PRE("granite-docling", gpt2),
    PRE("exaone4", gpt2),
    PRE("gigachat", gpt2),
    PRE("a.x-4.0", gpt2),
    PRE("mellum", gpt2),
    PRE("smollm", smollm),
    PRE("starcoder", smollm),
    PRE("refact", smollm),
    PRE("command-r", smollm),
    PRE("codeshell", smollm),
    PRE("exaone", smollm),
    PRE("minerva-7b", smollm),
    PRE("mellum2", smollm),
    PRE("poro-chat", poro_chat),
    PRE("bloom", poro_chat),
    PRE("gpt3-finnish", poro_chat),
    PRE("viking", viking),
};

const ag__pre *ag__pre_find(ag_str name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(table); i++)
        if (ag_str_eqz(name, table[i].name)) return &table[i];
    return NULL;
}

const ag__pre *ag__pre_next(const ag__pre *p)
{
    if (p == NULL) return table;
    return p + 1 < table + AG_ARRAY_LEN(table) ? p + 1 : NULL;
}
