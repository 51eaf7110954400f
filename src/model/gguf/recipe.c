#include "model/gguf/recipe.h"

static const ag_recipe recipes[] = {
#define AG_RECIPE(name, file, most, more, layers, output) \
    {name, file, AG_Q_##most, AG_Q_##more, AG_Q_##output, AG_LAYERS_##layers},
#include "model/gguf/quantize.def"
#undef AG_RECIPE
};

const ag_recipe *ag_recipe_find(ag_str name)
{
    for (size_t i = 0; i < AG_ARRAY_LEN(recipes); i++)
        if (ag_str_ieq(name, ag_str_of(recipes[i].name))) return &recipes[i];
    return NULL;
}

const ag_recipe *ag_recipe_next(const ag_recipe *r)
{
    if (r == NULL) return recipes;
    AG_ASSERT(r >= recipes && r < recipes + AG_ARRAY_LEN(recipes));
    return r + 1 < recipes + AG_ARRAY_LEN(recipes) ? r + 1 : NULL;
}

static bool holds(ag_str s, const char *word) { return memmem(s.p, s.n, word, strlen(word)) != NULL; }

bool ag_recipe_takes(const ag_gguf_tensor *t)
{
    static const char *const kept[] = {"norm", "ffn_gate_inp.", "position_embd", "token_types"};
    const ag_str tail = AG_STR(".weight");
    if (t->dim[1] * t->dim[2] * t->dim[3] == 1 || t->name.n < tail.n ||
        memcmp(t->name.p + t->name.n - tail.n, tail.p, tail.n) != 0)
        return false;
    for (size_t i = 0; i < AG_ARRAY_LEN(kept); i++)
        if (holds(t->name, kept[i])) return false;
    return true;
}

/* N of "blk.N."; -1: the name is not of that form. */
static int64_t layer_of(ag_str name)
{
    int64_t n = 0;
    size_t i = 4;
    if (!ag_str_starts(name, AG_STR("blk."))) return -1;
    for (; i < name.n && i < 13 && name.p[i] >= '0' && name.p[i] <= '9'; i++) n = n * 10 + (name.p[i] - '0');
    return i > 4 && i < name.n && name.p[i] == '.' ? n : -1;
}

static bool in_layers(ag_recipe_layers where, int64_t layer, int64_t layers)
{
    if (layer < 0 || where == AG_LAYERS_NONE) return false;
    if (layer < layers / 8) return true;
    return where == AG_LAYERS_SPREAD && (layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2);
}

int64_t ag_recipe_count_layers(const ag_gguf *g)
{
    int64_t layers = 0;
    for (uint32_t i = 0; i < ag_gguf_tensor_count(g); i++)
        layers = AG_MAX(layers, layer_of(ag_gguf_tensor_at(g, i)->name) + 1);
    return layers;
}

ag_quant_type ag_recipe_type(const ag_recipe *r, const ag_gguf *g, int64_t layers, const ag_gguf_tensor *t, bool pure)
{
    if (pure) return r->most;
    if (ag_str_eqz(t->name, "output.weight")) return r->output;
    if (ag_str_eqz(t->name, "token_embd.weight"))
        return ag_gguf_tensor_find(g, "output.weight") == NULL ? r->output : r->most;
    if (r->layers == AG_LAYERS_SPREAD && holds(t->name, "attn_qkv."))
        return r->most == AG_Q_Q4_K ? AG_Q_Q5_K : r->more;
    if (!holds(t->name, ".attn_v.") && !holds(t->name, ".ffn_down")) return r->most;
    return in_layers(r->layers, layer_of(t->name), layers) ? r->more : r->most;
}

ag_quant_cost ag_recipe_cost(const ag_gguf_tensor *t)
{
    bool words = ag_str_eqz(t->name, "token_embd.weight") || ag_str_eqz(t->name, "output.weight");
    return words ? AG_COST_BY_SQUARE : AG_COST_BY_SIZE;
}

ag_quant_type ag_recipe_fit(ag_quant_type t, uint64_t n)
{
    while (n % ag_quant_find((uint32_t)t)->block != 0) {
        switch (t) {
        case AG_Q_Q4_K: t = AG_Q_Q5_0; break;
        case AG_Q_Q5_K: t = AG_Q_Q5_1; break;
        case AG_Q_Q6_K: t = AG_Q_Q8_0; break;
        default: t = AG_Q_F16;
        }
    }
    return t;
}
