// Modules, initialisation and optimisers of autograd/nn for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "autograd/engine.h"
#include "autograd/nn/module.h"
#include "autograd/nn/optim.h"
#include "python/native/arguments.h"
#include "python/native/bindings.h"

namespace py = pybind11;

namespace bessemer::python {
namespace {

/// Runs what throws Python's own errors inside a function that pybind11 calls.
template <class Body>
auto checked(Body&& body) {
  try {
    return body();
  } catch (const PythonError&) {
    throw py::error_already_set();
  }
}

Shape shape_from(py::handle object) {
  return checked([&] {
    Shape shape;
    shape.ndim = integers_from(object.ptr(), shape.dim, "shape");
    return shape;
  });
}

cpu::Activation activation_from(py::handle name) {
  static const Signature signature = parse_signature("nn", "activation='none'");
  return checked([&] {
    PyObject* slots[] = {name.ptr()};
    return convert_activation({signature, slots, 0});
  });
}

const Tensor& input_of(py::handle object) {
  if (!is_tensor(object.ptr())) {
    fail<TypeError>("a module is called with a tensor, got ", Py_TYPE(object.ptr())->tp_name);
  }
  return tensor_of(object.ptr());
}

std::vector<Tensor> parameters_from(const py::iterable& parameters) {
  std::vector<Tensor> out;
  for (const py::handle item : parameters) out.push_back(input_of(item));
  return out;
}

/// Parameters are leaves that ask for a gradient from the start.
template <class Module>
std::unique_ptr<Module> trainable(std::unique_ptr<Module> module) {
  for (const Tensor& parameter : module->parameters()) set_requires_grad(parameter);
  return module;
}

template <class Module>
py::class_<Module> bind_module(py::module_& m, const char* name) {
  return py::class_<Module>(m, name).def("named_parameters", [](const Module& self) {
    py::list out;
    for (auto& [path, tensor] : self.named_parameters()) {
      out.append(py::make_tuple(path, py::reinterpret_steal<py::object>(wrap(tensor))));
    }
    return out;
  });
}

}  // namespace

void bind_modules(py::module_& m) {
  using namespace nn;
  py::class_<Init>(m, "Init", "Numbers for initialisation: the n-th draw follows from seed and n.")
      .def(py::init([](uint64_t seed) {
             return Init{seed, 0};
           }),
           py::arg("seed") = 0)
      .def_readonly("seed", &Init::seed)
      .def_readonly("next", &Init::next)
      .def(
          "normal",
          [](Init& self, py::handle shape, double std) {
            return self.normal(shape_from(shape), std);
          },
          py::arg("shape"), py::arg("std") = 1.0)
      .def(
          "uniform",
          [](Init& self, py::handle shape, double low, double high) {
            return self.uniform(shape_from(shape), low, high);
          },
          py::arg("shape"), py::arg("low") = 0.0, py::arg("high") = 1.0)
      .def(
          "orthogonal",
          [](Init& self, py::handle shape, double gain) {
            return self.orthogonal(shape_from(shape), gain);
          },
          py::arg("shape"), py::arg("gain") = 1.0);

  bind_module<Linear>(m, "_Linear")
      .def(py::init([](int64_t in, int64_t out, Init& init, double gain, py::handle activation) {
        return trainable(
            std::make_unique<Linear>(in, out, init, gain, activation_from(activation)));
      }))
      .def_readwrite("weight", &Linear::weight)
      .def_readwrite("bias", &Linear::bias)
      .def("forward", [](const Linear& self, py::handle x) { return self(input_of(x)); });

  bind_module<Conv2d>(m, "_Conv2d")
      .def(py::init([](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding,
                       Init& init, double gain) {
        return trainable(std::make_unique<Conv2d>(in, out, kernel, stride, padding, init, gain));
      }))
      .def_readwrite("weight", &Conv2d::weight)
      .def_readwrite("bias", &Conv2d::bias)
      .def("forward", [](const Conv2d& self, py::handle x) { return self(input_of(x)); });

  bind_module<GruCell>(m, "_GruCell")
      .def(py::init([](int64_t in, int64_t hidden, Init& init) {
        return trainable(std::make_unique<GruCell>(in, hidden, init));
      }))
      .def_readwrite("weight_ih", &GruCell::weight_ih)
      .def_readwrite("weight_hh", &GruCell::weight_hh)
      .def_readwrite("bias_ih", &GruCell::bias_ih)
      .def_readwrite("bias_hh", &GruCell::bias_hh)
      .def("forward", [](const GruCell& self, py::handle x, py::handle h) {
        return self(input_of(x), input_of(h));
      });

  bind_module<Mlp>(m, "_Mlp")
      .def(py::init([](int64_t in, const std::vector<int64_t>& hidden, int64_t out,
                       py::handle activation, Init& init, bool orthogonal, double out_gain) {
        return trainable(std::make_unique<Mlp>(in, hidden, out, activation_from(activation), init,
                                               orthogonal, out_gain));
      }))
      .def("forward", [](const Mlp& self, py::handle x) { return self(input_of(x)); });

  py::class_<Adam>(m, "_Adam")
      .def(py::init(
          [](const py::iterable& parameters, double beta1, double beta2, double eps, double decay) {
            return std::make_unique<Adam>(parameters_from(parameters),
                                          AdamOptions{beta1, beta2, eps, decay});
          }))
      .def("step", [](Adam& self, double lr) { self.step(lr); })
      .def("zero_grad", [](Adam& self) { zero_grad(self.parameters()); })
      .def_property("steps", &Adam::steps, &Adam::set_steps)
      .def("state", [](const Adam& self) {
        NamedTensors tensors;
        self.collect("", tensors);
        py::dict out;
        for (auto& [path, tensor] : tensors) {
          out[py::str(path)] = py::reinterpret_steal<py::object>(wrap(tensor));
        }
        return out;
      });
  m.def("_clip_grad_norm", [](const py::iterable& parameters, double max_norm) {
    return clip_grad_norm(parameters_from(parameters), max_norm);
  });
}

}  // namespace bessemer::python
