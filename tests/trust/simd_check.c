/* Checks each operation of simd/ at one level and precision against plain loops: prints what is wrong, and how much. */
#include <stdio.h>
#include <stdlib.h>

#include "csoftmax/simd/convert.h"
#include "csoftmax/simd/dot.h"

typedef csm_real R;
static int wrong;
static uint64_t state = 88172645463325252u;

static uint64_t draw(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

/* now and then what is special */
static R real(void) {
    static const double special[] = {0, -0.0, INFINITY, -INFINITY, NAN, 1, 1};
    return (R)(draw() % 8 ? ((double)(draw() >> 11) * 0x1p-53 - 0.5) * 100 : special[draw() % 7]);
}

static R ordinary(void) { return (R)(((double)(draw() >> 11) * 0x1p-53 - 0.5) * 100); }

/* the same bits, or both NaN */
static int same(R a, R b) { return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b); }

static void check(const char *name, int right) {
    if (!right) printf("%s is wrong\n", name), wrong++;
}

static R halved(const R *a, int largest, R *low, R *high) {
    R lanes[VL + 1];
    memcpy(lanes, a, VL * sizeof *a);
    for (int half = VL / 2; half > 0; half /= 2) {
        if (half == 1) *low = lanes[0], *high = lanes[1];
        for (int i = 0; i < half; i++) {
            const R b = lanes[i + half];
            lanes[i] = largest ? (lanes[i] > b ? lanes[i] : b) : lanes[i] + b;
        }
    }
    return lanes[0];
}

#define CHECK_LANES(name, vector, scalar)                                                                     \
    do {                                                                                                      \
        v_store(out, vector);                                                                                 \
        for (int i = 0; i < VL; i++) check(name, same(out[i], scalar));                                       \
    } while (0)

static void check_lanes(void) {
    R a[VL], b[VL], c[VL], d[VL], out[VL];
    for (int i = 0; i < VL; i++) a[i] = real(), b[i] = draw() % 4 ? real() : a[i], c[i] = real(), d[i] = real();
    const csm_vec va = v_load(a), vb = v_load(b), vc = v_load(c), vd = v_load(d);
    CHECK_LANES("set1", v_set1(a[0]), a[0]);
    CHECK_LANES("add", v_add(va, vb), a[i] + b[i]);
    CHECK_LANES("sub", v_sub(va, vb), a[i] - b[i]);
    CHECK_LANES("mul", v_mul(va, vb), a[i] * b[i]);
    CHECK_LANES("div", v_div(va, vb), a[i] / b[i]);
    CHECK_LANES("max", v_max(va, vb), a[i] > b[i] ? a[i] : b[i]);
    CHECK_LANES("and_eq", v_and_eq(va, vb, vc), a[i] == b[i] ? c[i] : 0);
    CHECK_LANES("and_ne", CSM_T(and_ne)(va, vb, vc), a[i] == b[i] ? 0 : c[i]);
    CHECK_LANES("and_not_lt", CSM_T(and_not_lt)(va, vb, vc), a[i] < b[i] ? 0 : c[i]);
    CHECK_LANES("select_lt", v_select_lt(va, vb, vc, vd), a[i] < b[i] ? c[i] : d[i]);
    csm_vec total = v_set1(1), count = v_set1(2);
    v_add_or_count(va, vb, &total, &count);
    CHECK_LANES("add_or_count", total, a[i] == 0 ? 1 : 1 + b[i]);
    CHECK_LANES("add_or_count", count, a[i] == 0 ? 3 : 2);
    for (int k = 0; k <= VL; k++) {
        CHECK_LANES("load_n", v_load_n(a, k, 5), i < k ? a[i] : 5);
        R room[VL + 1];
        for (int i = 0; i <= VL; i++) room[i] = 7;
        v_store_n(room, k, va);
        for (int i = 0; i <= VL; i++) check("store_n", same(room[i], i < k ? a[i] : 7));
    }
    for (int i = 0; i < VL; i++) a[i] = ordinary(), b[i] = ordinary() + 1;
    const csm_vec quotient = v_div(v_load(a), v_load(b));
    R q[VL];
    v_store(q, quotient);
    CHECK_LANES("residual", v_residual(v_load(a), quotient, v_load(b)), (R)fmal(-(long double)q[i], b[i], a[i]));
}

static void check_horizontal(void) {
    R a[VL], low = 0, high = 0, l, h, rows[VL * VL], four[4 * VL], out[VL];
    for (int i = 0; i < VL; i++) a[i] = ordinary();
    const R sum = halved(a, 0, &low, &high);
    v_hpair(v_load(a), &l, &h);
    check("hpair", VL == 1 || (same(l, low) && same(h, high)));
    check("hadd", same(v_hadd(v_load(a)), sum));
    check("hmax", same(v_hmax(v_load(a)), halved(a, 1, &low, &high)));
    for (int i = 0; i < VL * VL; i++) rows[i] = ordinary();
    csm_vec r[VL], f[4];
    for (int i = 0; i < VL; i++) r[i] = v_load(rows + i * VL);
    CHECK_LANES("hadd_rows", v_hadd_rows(r), halved(rows + i * VL, 0, &low, &high));
    for (int i = 0; i < 4 * VL; i++) four[i] = ordinary();
    for (int i = 0; i < 4; i++) f[i] = v_load(four + i * VL);
    v_hadd_four(f, 3);
    for (int j = 0; j < 4; j++) CHECK_LANES("hadd_four", f[j], halved(four + j * VL, 0, &low, &high) * 3);
    check("all_below", v_all_below(v_load(a), 51));
    for (int i = 0; i < VL; i++) {
        const R before = a[i];
        a[i] = draw() % 2 ? (R)-51 : (R)NAN;
        check("all_below", !v_all_below(v_load(a), 51));
        a[i] = before;
    }
}

static void check_quads(void) {
    enum { PITCH = 7 };
    R rows[VL * PITCH], back[VL * PITCH], lanes[VL];
    for (int i = 0; i < VL * PITCH; i++) rows[i] = ordinary();
    for (int k = 1; k <= 4; k++) {
        csm_vec a[4];
        v_quads_in(rows, PITCH, k, a);
        for (int j = 0; j < k; j++) {
            v_store(lanes, a[j]);
            for (int i = 0; i < VL; i++) check("quads_in", same(lanes[i], rows[i * PITCH + j]));
        }
        for (int i = 0; i < VL * PITCH; i++) back[i] = 7;
        v_quads_out(back, PITCH, k, a);
        for (int i = 0; i < VL * PITCH; i++) check("quads_out", same(back[i], i % PITCH < k ? rows[i] : 7));
    }
}

static void check_exp(R m) {
    R x[VL], d[VL], out[VL];
    const csm_shift shift = v_exp_shift_row(m);
    for (int i = 0; i < VL; i++) x[i] = m - (R)(draw() >> 11) * (R)0x1p-53 * (CSM_BITS == 32 ? 110 : 800), d[i] = x[i] - m;
    x[0] = m, d[0] = 0;
    for (int way = 0; way < 3; way++) {
        const csm_vec e = way == 0   ? v_exp(v_load(x), v_load(d), shift, EXP_SHARED)
                          : way == 1 ? v_exp(v_load(x), v_load(d), shift, EXP_SHARED_LANES)
                                     : v_exp(v_set1(0), v_load(d), shift, EXP_DIRECT);
        v_store(out, e);
        check("exp of the maximum", out[0] == (R)EXP_SCALE);
        for (int i = 1; i < VL; i++) {
            const int zero = d[i] < CSM_T(EXP_MIN);
            const long double whole = expl(way == 2 ? d[i] : (long double)x[i] - m) * EXP_SCALE;
            const long double unit = whole * (CSM_BITS == 32 ? 0x1p-23L : 0x1p-52L);
            check("exp", zero ? out[i] == 0 : fabsl(out[i] - whole) < 1.4L * unit);
        }
    }
}

#if CSM_BITS == 32 && defined(CSM_HAS_16)
/* what a float has beyond a 16-bit float; often just half a unit of that */
static uint32_t lower_bits(void) { return (uint32_t)(draw() % 2 ? draw() % 65536 : 0x8000u >> draw() % 4); }

static void check_halves(void) {
    for (unsigned first = 0; first < 65536; first += VL) {
        uint16_t h[VL], out[VL];
        float wide[VL], whole[VL];
        for (int i = 0; i < VL; i++) h[i] = (uint16_t)(first + (unsigned)i);
#define CHECK_HALVES(name)                                                                                    \
    store_f32(wide, widen_##name(load_16(h)));                                                                \
    for (int i = 0; i < VL; i++) check("widen_" #name, same(wide[i], csm_from_##name(h[i])));                 \
    for (int i = 0; i < VL; i++) whole[i] = csm_float_of(csm_bits_of(wide[i]) + lower_bits());                \
    store_16(out, narrow_##name(load_f32(whole)));                                                            \
    for (int i = 0; i < VL; i++) check("narrow_" #name, out[i] == csm_to_##name(whole[i]));
        CHECK_HALVES(f16)
        CHECK_HALVES(bf16)
    }
}
#else
static void check_halves(void) {}
#endif

int main(void) {
    for (int i = 0; i < 2000; i++) {
        check_lanes();
        check_horizontal();
        check_quads();
        check_exp(ordinary());
    }
    check_halves();
    printf("VL %d, %d wrong\n", VL, wrong);
    return wrong != 0;
}
