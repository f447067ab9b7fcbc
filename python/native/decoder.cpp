// The decoder of autograd/nn for Python: made from config.json's keys, loaded and saved as folders.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "autograd/nn/decoder_io.h"
#include "core/ops/ops.h"
#include "python/native/bindings.h"

namespace py = pybind11;

namespace bessemer::python {
namespace {

Dtype compute_from(const std::string& dtype) {
  BESSEMER_CHECK(dtype == "float32" || dtype == "bfloat16", ValueError,
                 "a decoder computes in float32 or bfloat16, not '", dtype, "'");
  return dtype == "float32" ? Dtype::f32 : Dtype::bf16;
}

}  // namespace

void bind_decoder(py::module_& m) {
  using namespace nn;
  py::class_<Decoder>(m, "_Decoder")
      .def(py::init(
          [](const std::string& config, const std::string& dtype, bool checkpoint, uint64_t seed) {
            DecoderConfig c = parse_decoder_config(config, "the configuration");
            c.compute = compute_from(dtype);
            c.checkpoint = checkpoint;
            return std::make_unique<Decoder>(c, seed);
          }))
      .def_static("load",
                  [](const std::string& folder, const std::string& dtype, bool checkpoint) {
                    DecoderConfig like;
                    like.compute = compute_from(dtype);
                    like.checkpoint = checkpoint;
                    return load_decoder(folder, like).decoder;
                  })
      .def("save",
           [](const Decoder& self, const std::string& folder) { save_decoder(folder, self); })
      .def("config", [](const Decoder& self) { return decoder_config_json(self.config()); })
      .def("hidden",
           [](const Decoder& self, const Tensor& tokens, const Tensor& segments) {
             return self.hidden(cast(tokens, Dtype::i64), Packed{segments});
           })
      .def("logits", &Decoder::logits)
      .def("output_weight", &Decoder::output_weight)
      .def("named_parameters", &Decoder::named_parameters);
}

}  // namespace bessemer::python
