"""Makes the tiny models that the tests of package onnx and package registry read, and the self-test forest. Needs onnx and numpy."""
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def save(name, nodes, inputs, outputs, init=(), opset=17, ml=None, path=None, **extra):
    opsets = [helper.make_opsetid("", opset)] if opset else []
    if ml:
        opsets.append(helper.make_opsetid("ai.onnx.ml", ml))
    for domain, version in extra.get("domains", {}).items():
        opsets.append(helper.make_opsetid(domain, version))
    graph = helper.make_graph(nodes, name, inputs, outputs, list(init))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="rowcast-test")
    for key, value in extra.get("metadata", {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, path or HERE / f"{name}.onnx")


def forest(labels_ints=None, labels_strings=None):
    """Three trees over two features as scikit-learn's converter writes a binary forest: one weight per leaf, the probability of the second class."""
    trees = [  # (feature, threshold, left, right) or weight
        (0, 0.5, (1, -1.0, 0.05, 0.30), (1, 2.0, 0.10, 0.33)),
        (1, 0.25, (0, -0.75, 0.0, 0.02), (0, 1.5, 0.28, 0.3333)),
        (0, 1.25, (1, 0.0, 0.12, 0.21), 0.3),
    ]
    a = {k: [] for k in ("nodes_treeids nodes_nodeids nodes_featureids nodes_values nodes_modes nodes_truenodeids nodes_falsenodeids nodes_hitrates "
                         "nodes_missing_value_tracks_true class_treeids class_nodeids class_ids class_weights").split()}

    def add(tree, t):
        n = len([x for x in a["nodes_treeids"] if x == t])
        leaf = not isinstance(tree, tuple)
        row = len(a["nodes_treeids"])
        for key, v in dict(nodes_treeids=t, nodes_nodeids=n, nodes_featureids=0 if leaf else tree[0], nodes_values=0.0 if leaf else tree[1],
                           nodes_modes="LEAF" if leaf else "BRANCH_LEQ", nodes_truenodeids=0, nodes_falsenodeids=0, nodes_hitrates=1.0,
                           nodes_missing_value_tracks_true=0).items():
            a[key].append(v)
        if leaf:
            for key, v in dict(class_treeids=t, class_nodeids=n, class_ids=0, class_weights=tree).items():
                a[key].append(v)
        else:
            a["nodes_truenodeids"][row] = add(tree[2], t)
            a["nodes_falsenodeids"][row] = add(tree[3], t)
        return n

    for t, tree in enumerate(trees):
        add(tree, t)
    classes = {"classlabels_strings": labels_strings} if labels_strings else {"classlabels_int64s": labels_ints or [0, 1]}
    return helper.make_node("TreeEnsembleClassifier", ["X"], ["label", "probabilities"], domain="ai.onnx.ml", post_transform="NONE", **classes, **a)


F, D, I, S, B, H = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL, TensorProto.FLOAT16
X2 = info("X", F, [None, 2])
BOTH = [info("label", I, [None]), info("probabilities", F, [None, 2])]

# The self-test of the runtime.
save("selftest", [forest()], [X2], BOTH, opset=None, ml=1, path=HERE.parent / "selftest.onnx")

# ZipMap over a graph that imports no standard operators; labels of an odd alphabet, one longer than a command tag.
LABELS = ["été 'x' \"y\"", "日本語, \\ {brace}", "z" * 100]


def linear_classifier(labels, width=2):
    r = np.random.default_rng(1)
    return helper.make_node("LinearClassifier", ["X"], ["label", "p"], domain="ai.onnx.ml", post_transform="SOFTMAX", multi_class=1,
                            coefficients=r.normal(size=len(labels) * width).tolist(), intercepts=[0.0] * len(labels), classlabels_strings=labels)


save("zipmap_text", [linear_classifier(LABELS), helper.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", classlabels_strings=LABELS)],
     [X2], [info("label", S, [None]),
            helper.make_value_info("maps", helper.make_sequence_type_proto(helper.make_map_type_proto(S, helper.make_tensor_type_proto(F, []))))],
     opset=None, ml=1)
# float16 and bfloat16, in and out.
save("half", [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Cast", ["b"], ["bf"], to=F),
              helper.make_node("Neg", ["bf"], ["nf"]), helper.make_node("Cast", ["nf"], ["minus"], to=TensorProto.BFLOAT16)],
     [info("x", H, [None, 2]), info("b", TensorProto.BFLOAT16, [None])], [info("twice", H, [None, 2]), info("minus", TensorProto.BFLOAT16, [None])])

# Rank 0 of every sort, and an output whose rank is not declared.
save("scalars", [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Identity", ["word"], ["same"]),
                 helper.make_node("Add", ["h", "h"], ["htwice"]), helper.make_node("ReduceSum", ["list"], ["total"], keepdims=0),
                 helper.make_node("Identity", ["list"], ["open"]), helper.make_node("Neg", ["i"], ["minus"])],
     [info("x", F, []), info("word", S, []), info("h", H, []), info("list", D, [None, 3]), info("i", I, [])],
     [info("twice", F, []), info("same", S, []), info("htwice", H, []), info("total", D, []), info("open", D, None), info("minus", I, [])])

# The number of rows is fixed.
save("fixed_batch", [helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1)], [info("x", F, [8, 3])], [info("sum", F, [8, 1])],
     [numpy_helper.from_array(np.array([1], np.int64), "axis")])

# The number of features is open.
save("open_width", [helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=1)], [info("x", F, [None, None])], [info("sum", F, [None, 1])],
     [numpy_helper.from_array(np.array([1], np.int64), "axis")])

# Several values per row.
W = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
save("several_values", [helper.make_node("MatMul", ["x", "w"], ["y"])], [info("x", F, [None, 2])], [info("y", F, [None, 3])], [W])

# A network that ends in a softmax; nothing names its classes.
save("softmax", [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"], axis=1)],
     [info("x", F, [None, 2])], [info("y", F, [None, 3])], [W])

# Integer division by an input: zero, or the one overflow, raises SIGFPE.
save("divide", [helper.make_node("Div", ["a", "b"], ["y"])], [info("a", I, [None, 1]), info("b", I, [None, 1])], [info("y", I, [None, 1])])

# Runs for ever where the input says so.
loop = helper.make_graph([helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["a", "a"], ["b"])], "body",
                         [info("i", I, []), info("go", B, []), info("a", F, None)], [info("go_on", B, []), info("b", F, None)])
save("loop", [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Less", ["zero", "m"], ["yes"]),
              helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=loop)],
     [info("x", F, [None, 2])], [info("y", F, [None, 2])],
     [helper.make_tensor("trips", I, [], [2**62]), helper.make_tensor("zero", F, [], [0.0])])

# Clusters as scikit-learn's converter writes KMeans: the nearest centre, and the distances.
C = np.array([[0, 0], [4, 0], [0, 4]], np.float32)
save("kmeans", [helper.make_node("Unsqueeze", ["X", "one"], ["x3"]), helper.make_node("Sub", ["x3", "centres"], ["d"]),
                helper.make_node("ReduceL2", ["d"], ["scores"], axes=[2], keepdims=0), helper.make_node("ArgMin", ["scores"], ["label"], axis=1, keepdims=0)],
     [X2], [info("label", I, [None]), info("scores", F, [None, 3])],
     [numpy_helper.from_array(np.array([1], np.int64), "one"), numpy_helper.from_array(C, "centres")])

# A dynamically quantised layer.
r = np.random.default_rng(2)
save("quantized", [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y4"]),
                   helper.make_node("MatMul", ["y4", "w4"], ["y"])],
     [info("x", F, [None, 4])], [info("y", F, [None, 1])], [numpy_helper.from_array(r.normal(size=(4, 1)).astype(np.float32), "w4")])

# The label's declared shape is wrong, as LightGBM's converter writes it.
save("wrong_shape", [forest()], [X2], [info("label", I, [1]), info("probabilities", F, [None, 2])], opset=None, ml=1)

# How many rows come out depends on the numbers.
save("nonzero", [helper.make_node("NonZero", ["x"], ["where"])], [info("x", F, [None, 2])], [info("where", I, [2, None])])

# One column per feature, names that need quoting, metadata that names more.
save("columns", [helper.make_node("Concat", ["Größe (cm)", 'a "b"'], ["m"], axis=1), helper.make_node("ReduceSum", ["m", "axis"], ["variable"], keepdims=1)],
     [info("Größe (cm)", F, [None, 1]), info('a "b"', F, [None, 1])], [info("variable", F, [None, 1])],
     [numpy_helper.from_array(np.array([1], np.int64), "axis")])
save("named", [helper.make_node("ReduceSum", ["x", "axis"], ["y"], keepdims=1)], [info("x", F, [None, 3])], [info("y", F, [None, 1])],
     [numpy_helper.from_array(np.array([1], np.int64), "axis")], metadata={"feature_names": '["width", "height", "depth"]'})

# A text that the system's locale must exist for.
save("locale", [helper.make_node("StringNormalizer", ["t"], ["u"], case_change_action="LOWER", locale="xx_XX.UTF-8")], [info("t", S, [None])], [info("u", S, [None])])

# An index that the table does not have makes the run fail.
save("gather", [helper.make_node("Gather", ["table", "at"], ["y"])], [info("at", I, [None, 1])], [info("y", F, [None, 1])],
     [numpy_helper.from_array(np.array([10, 20, 30], np.float32), "table")])

print(sum(p.stat().st_size for p in HERE.glob("*.onnx")), "bytes")
