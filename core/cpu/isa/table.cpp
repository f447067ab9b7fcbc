// The table of one instruction set.
#include "core/cpu/isa/isa.h"
#include "core/cpu/isa/vec.h"

#define BESSEMER_TEXT_(name) #name
#define BESSEMER_TEXT(name) BESSEMER_TEXT_(name)

namespace bessemer::cpu::BESSEMER_ISA {

const KernelTable& table() {
  static KernelTable filled = [] {
    KernelTable t{};
    t.isa = BESSEMER_TEXT(BESSEMER_ISA);
    t.vector_floats = kVec;
    fill_elementwise(t);
    fill_casts(t);
    fill_products(t);
    fill_half_products(t);
    fill_rows(t);
    fill_norms(t);
    fill_attention(t);
    fill_cross_entropy(t);
    fill_attention_backward(t);
    return t;
  }();
  return filled;
}

}  // namespace bessemer::cpu::BESSEMER_ISA
