// Train a bundle's official artifacts with ONNX Runtime's C++ training API.
//
//     train BUNDLE/ort_training TOKENS CHECKPOINT [STEPS]
//
// TOKENS is a text file with one example a line: its class, then its token ids (tokens.py writes one). All examples go
// through the model as one batch. CHECKPOINT is what `fieldtune import-checkpoint` turns into a PEFT adapter.

#include <onnxruntime_training_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Batch {
  std::vector<int64_t> input_ids, attention_mask, labels;  // the first two row-major, (batch, sequence)
  int64_t batch = 0, sequence = 0;
};

Batch read_batch(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<std::vector<int64_t>> rows;
  Batch result;
  for (std::string line; std::getline(file, line);) {
    std::istringstream numbers(line);
    int64_t label = 0;
    if (!(numbers >> label)) continue;  // an empty line
    result.labels.push_back(label);
    rows.emplace_back();
    for (int64_t id = 0; numbers >> id;) rows.back().push_back(id);
    result.sequence = std::max<int64_t>(result.sequence, rows.back().size());
  }
  if (rows.empty()) throw std::runtime_error(path + " holds no examples");
  result.batch = static_cast<int64_t>(rows.size());
  for (const auto& row : rows) {
    // Padding is on the right. What id fills it does not matter: the mask hides it.
    for (int64_t column = 0; column < result.sequence; ++column) {
      const bool held = column < static_cast<int64_t>(row.size());
      result.input_ids.push_back(held ? row[column] : 0);
      result.attention_mask.push_back(held ? 1 : 0);
    }
  }
  return result;
}

// The tensors point into the batch, which has to outlive them.
std::vector<Ort::Value> feeds(Batch& batch, const std::vector<std::string>& names) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  const std::vector<int64_t> matrix{batch.batch, batch.sequence}, vector{batch.batch};
  struct Named {
    std::vector<int64_t>* values;
    const std::vector<int64_t>* shape;
  };
  // Of text generation the labels are a matrix, too: the token ids, with -100 where no loss is wanted.
  const std::map<std::string, Named> known{{"input_ids", {&batch.input_ids, &matrix}},
                                           {"attention_mask", {&batch.attention_mask, &matrix}},
                                           {"labels", {&batch.labels, &vector}}};
  std::vector<Ort::Value> result;
  for (const auto& name : names) {
    const Named& named = known.at(name);
    result.push_back(Ort::Value::CreateTensor<int64_t>(memory, named.values->data(), named.values->size(),
                                                       named.shape->data(), named.shape->size()));
  }
  return result;
}

void train(const std::filesystem::path& artifacts, const std::string& tokens, const std::string& out, int steps) {
  Batch batch = read_batch(tokens);
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "train");
  Ort::SessionOptions options;

  // The state holds the parameters and has to outlive the session.
  auto state = Ort::CheckpointState::LoadCheckpoint((artifacts / "checkpoint").native());
  Ort::TrainingSession session(env, options, state, (artifacts / "training_model.onnx").native(),
                               (artifacts / "eval_model.onnx").native(), (artifacts / "optimizer_model.onnx").native());

  const auto inputs = feeds(batch, session.InputNames(true));
  session.SetLearningRate(1e-2F);
  for (int step = 1; step <= steps; ++step) {
    const auto outputs = session.TrainStep(inputs);  // forward and backward; the first output is the mean loss
    session.OptimizerStep();
    session.LazyResetGrad();
    std::cout << "step " << step << ": loss " << outputs[0].GetTensorData<float>()[0] << '\n';
  }
  const auto outputs = session.EvalStep(inputs);
  std::cout << "after training: loss " << outputs[0].GetTensorData<float>()[0] << '\n';
  std::cout << session.ToBuffer(true).GetTensorTypeAndShapeInfo().GetElementCount() << " trained values\n";
  Ort::CheckpointState::SaveCheckpoint(state, std::filesystem::path(out).native(), true);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::cerr << "usage: train BUNDLE/ort_training TOKENS CHECKPOINT [STEPS]\n";
    return 2;
  }
  try {
    train(argv[1], argv[2], argv[3], argc > 4 ? std::atoi(argv[4]) : 10);
  } catch (const std::exception& error) {
    std::cerr << "train: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
