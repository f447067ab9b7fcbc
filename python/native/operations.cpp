// Every row of ops.def as a Python function and a Tensor method, and the composites beside them.
#include <deque>
#include <string>

#include "python/native/arguments.h"
#include "python/native/tensor_type.h"

namespace bessemer {

/// One declaration a row, so that the address of a name that C++ overloads is unambiguous.
namespace row_types {
#define BESSEMER_UNARY(name, ...) Tensor name(const Tensor& x);
#define BESSEMER_BINARY(name, ...) Tensor name(const Tensor& a, const Tensor& b);
#define BESSEMER_OP(name, result, parameters, ...) result name parameters;
#include "core/ops/ops.def"
}  // namespace row_types

namespace python {
namespace {

template <OpId Id>
struct Row {};
#define ROW_BINDING(name) \
  Binding<static_cast<decltype(&row_types::name)>(&bessemer::name), Row<OpId::name>>

/// Methods of one tensor and no other argument skip the binding.
template <Tensor (*Function)(const Tensor&)>
PyObject* unary_method(PyObject* self, PyObject*) {
  return guarded([&] { return wrap(Function(tensor_of(self))); });
}

// Text that Python keeps pointers to.
std::deque<std::string> texts;
const char* keep(std::string text) { return texts.emplace_back(std::move(text)).c_str(); }

struct Entry {
  const char* name;
  const char* signature;
  const char* doc;
  PyCFunction function;
  PyCFunction method;  // null: not a method
  bool no_arguments;   // the method takes self only
  bool pair;           // the result is a tuple of two tensors
};

std::vector<Entry> entries;

template <class Bound>
void add_entry(const char* name, const char* signature, const char* doc) {
  Bound::signature = parse_signature(name, signature);
  BESSEMER_CHECK(Bound::signature.parameters.size() == static_cast<size_t>(Bound::kParameters),
                 Error, "[", name, "] has ", Bound::kParameters,
                 " parameters, its Python text another number");
  entries.push_back({name, signature, doc, as_method(&Bound::function),
                     Bound::kMethod ? as_method(&Bound::method) : nullptr, false, Bound::kPair});
}

template <class Bound>
void add_row(int row) {
  add_entry<Bound>(op_texts[row].name, op_texts[row].signature, op_texts[row].doc);
}

void add_rows() {
  int row = 0;
#define BESSEMER_UNARY(name, ...)                                                       \
  add_row<ROW_BINDING(name)>(row++);                                                    \
  entries.back().method =                                                               \
      as_method(unary_method<static_cast<Tensor (*)(const Tensor&)>(&bessemer::name)>); \
  entries.back().no_arguments = true;
#define BESSEMER_BINARY(name, ...) add_row<ROW_BINDING(name)>(row++);
#define BESSEMER_OP(name, ...) add_row<ROW_BINDING(name)>(row++);
#include "core/ops/ops.def"
}

#define COMPOSITE(name, type, signature, doc) \
  add_entry<Binding<static_cast<type>(&bessemer::name), struct name##_tag>>(#name, signature, doc)

void add_composites() {
  using Reduction = Tensor (*)(const Tensor&, const Dims&, bool);
  using One = Tensor (*)(const Tensor&);
  using WithDim = Tensor (*)(const Tensor&, int64_t);
  using TwoInts = Tensor (*)(const Tensor&, int64_t, int64_t);
  COMPOSITE(mean, Reduction, "x, dims=None, keepdim=False", "Mean over dims.");
  COMPOSITE(var, Tensor(*)(const Tensor&, const Dims&, bool, double),
            "x, dims=None, keepdim=False, correction=0.0",
            "Variance over dims; correction 1 divides by n - 1.");
  COMPOSITE(logsumexp, Tensor(*)(const Tensor&, int64_t, bool), "x, dim=-1, keepdim=False",
            "log(sum(exp(x))) over one dimension, without overflow.");
  COMPOSITE(clamp, Tensor(*)(const Tensor&, const Tensor&, const Tensor&), "x, low, high",
            "x held between low and high (numbers or tensors).");
  COMPOSITE(transpose, TwoInts, "x, dim0=-2, dim1=-1", "Swaps two dimensions (a view).");
  COMPOSITE(flip, WithDim, "x, dim", "Reverses one dimension (a view).");
  COMPOSITE(squeeze, WithDim, "x, dim", "Removes a dimension of size 1.");
  COMPOSITE(unsqueeze, WithDim, "x, dim", "Inserts a dimension of size 1.");
  COMPOSITE(flatten, TwoInts, "x, start=0, end=-1", "Merges dimensions start..end into one.");
  COMPOSITE(select, TwoInts, "x, dim, index", "x[index] along dim, which disappears.");
  COMPOSITE(concat, Tensor(*)(std::span<const Tensor>, int64_t), "parts, dim=0",
            "Joins tensors along a dimension.");
  COMPOSITE(stack, Tensor(*)(std::span<const Tensor>, int64_t), "parts, dim=0",
            "Joins tensors along a new dimension.");
  COMPOSITE(one_hot, WithDim, "index, classes", "float32 rows with a one at index.");
  COMPOSITE(zeros_like, One, "x", "Zeros of x's shape and dtype.");
  COMPOSITE(ones_like, One, "x", "Ones of x's shape and dtype.");
}

const char* kind_name(Kind kind) {
  constexpr const char* names[] = {"unary",       "binary", "reduce", "view", "index",
                                   "contraction", "random", "memory", "fused"};
  return names[static_cast<int>(kind)];
}

/// The table for the test sweep, the stubs and the docs.
PyObject* op_rows(PyObject*, PyObject*) {
  return guarded([&] {
    Owned list = own(PyList_New(0));
    for (int i = 0; i < kOps; ++i) {
      const OpInfo& info = *op_table[i];
      const OpText& text = op_texts[i];
      const Owned row = own(Py_BuildValue(
          "{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:O,s:O}", "name", text.name, "kind",
          kind_name(info.kind), "signature", text.signature, "doc", text.doc, "numpy", info.numpy,
          "samples", info.samples, "domain", info.domain, "inputs", int{info.inputs}, "outputs",
          int{info.outputs}, "differentiable", info.vjp ? Py_True : Py_False,
          "differentiable_twice", info.vjp && info.differentiable_twice ? Py_True : Py_False));
      check_python(PyList_Append(list.get(), row.get()) == 0);
    }
    return list.release();
  });
}

/// Name, signature, doc, whether a method, whether two results, of every function made from the
/// table or a composite.
PyObject* function_texts(PyObject*, PyObject*) {
  return guarded([&] {
    Owned list = own(PyList_New(0));
    for (const Entry& entry : entries) {
      const Owned row =
          own(Py_BuildValue("(sssOO)", entry.name, entry.signature, entry.doc,
                            entry.method ? Py_True : Py_False, entry.pair ? Py_True : Py_False));
      check_python(PyList_Append(list.get(), row.get()) == 0);
    }
    return list.release();
  });
}

std::vector<PyMethodDef> functions;

}  // namespace

void append_operation_methods(std::vector<PyMethodDef>& table) {
  add_rows();
  add_composites();
  for (const Entry& entry : entries) {
    const std::string signature = entry.signature;
    functions.push_back({entry.name, entry.function, METH_FASTCALL | METH_KEYWORDS,
                         keep(cat(entry.name, "(", signature, ")\n--\n\n", entry.doc))});
    if (!entry.method) continue;
    const size_t comma = signature.find(',');
    const std::string rest = comma == std::string::npos ? "" : signature.substr(comma);
    table.push_back({entry.name, entry.method,
                     entry.no_arguments ? METH_NOARGS : METH_FASTCALL | METH_KEYWORDS,
                     keep(cat(entry.name, "($self", rest, ")\n--\n\n", entry.doc))});
  }
  functions.push_back(
      {"op_rows", op_rows, METH_NOARGS, "op_rows()\n--\n\nThe op table as dictionaries."});
  functions.push_back({"_function_texts", function_texts, METH_NOARGS, nullptr});
  functions.push_back({nullptr, nullptr, 0, nullptr});
}

bool add_operations(PyObject* module) {
  return PyModule_AddFunctions(module, functions.data()) == 0;
}

}  // namespace python
}  // namespace bessemer
