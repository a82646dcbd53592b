/* A config.json as the shape that its class would build, for the types whose counts are closed forms:
   design/closed_form.py again, with the tables of the same module from gallery-data.js. A test holds
   both to the same shapes and to the same refusals. What is not covered names the command. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const LARGEST = 2 ** 20; // bytes; configs have thousands
  const MOST_LAYERS = 100_000;

  function refuse(name, value, rule) {
    const text = JSON.stringify(value) ?? "none";
    throw new Error(`${name} = ${text.length > 80 ? `${text.slice(0, 77)}...` : text}: ${rule}`);
  }

  function require(holds, name, value, rule) {
    if (!holds) refuse(name, value, rule);
  }

  const command = (why) =>
    new Error(`${why}. The command counts it: moe-leverage explain config.json`);

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const isNothing = (value) => value === undefined || value === null;

  /* Readers of a config in the words of its class */
  function reader(values, names) {
    const name = (ours) => names[ours].find((n) => n in values);
    const flag = (key) => {
      const value = values[key];
      require(isNothing(value) || typeof value === "boolean", key, value, "must be true or false");
      return value === true;
    };
    const whole = (ours, otherwise) => {
      const key = name(ours);
      const value = key === undefined ? undefined : values[key];
      if (isNothing(value)) {
        require(otherwise !== undefined, key || names[ours][0], null, "is required");
        return otherwise;
      }
      require(Number.isInteger(value) && value >= 0, key, value, "must be a whole number >= 0");
      return value;
    };
    const said = (ours, otherwise) =>
      name(ours) === undefined ? otherwise : whole(ours, otherwise);
    return { values, name, flag, whole, said };
  }

  /* Given values over the class's defaults, under the class's names */
  function inItsWords(raw, kind, t) {
    const { defaults, aliases, nullable } = t.classes[kind];
    const values = { ...defaults };
    const given = {};
    for (const [key, value] of Object.entries(raw)) {
      const name = aliases[key] ?? key;
      const isKnown =
        name in defaults ||
        t.readAnyway.includes(name) ||
        (t.repository.includes(kind) && t.words.includes(name));
      if (isKnown) {
        if (name in given) {
          const [other, before] = given[name];
          require(value === before, key, value, `contradicts ${other} = ${before}`);
        }
        given[name] = [key, value];
        const may = value !== null || nullable.includes(name);
        require(may, key, value, `must not be null in a config of type ${kind}`);
        values[name] = value;
      } else if (t.noSizes.includes(key)) values[key] = value;
    }
    return reader(values, t.names);
  }

  function requireCovered(raw, kind, w, t) {
    if ("per_layer_config" in raw) throw command("per_layer_config: the layers differ");
    if (kind === "ernie4_5_moe" && w.flag("use_bias")) throw command("use_bias = true");
    if (kind === "deepseek_v2" && w.flag("mlp_bias")) throw command("mlp_bias = true");
    const width = Math.floor(w.whole("d_model") / Math.max(w.whole("num_heads"), 1));
    if (kind === "olmoe" && (w.values.head_dim ?? width) !== width)
      throw command("head_dim: the norms of all heads keep the width of the model");
    const act = w.values.hidden_act;
    require(isNothing(act) || typeof act === "string", "hidden_act", act, "must be text");
    const number = w.name("num_experts");
    for (const key of t.names.num_experts) {
      if (!(key in raw) || key in w.values || raw[key] === w.values[number]) continue;
      const isAliased = t.classes[kind].aliases[key] in w.values;
      const isNone = [null, 0].includes(raw[key]) && !number;
      const takes = number ? `takes ${number}` : "has no experts";
      require(isAliased || isNone || number in raw, key, raw[key], `model_type ${kind} ${takes}`);
    }
  }

  /* Words about experts without a number of them are no dense model */
  function requireNumber(raw, numExperts, t) {
    const nothing = (v) =>
      [null, 0, 1, -1, false].includes(v) ||
      (Object.keys(v ?? {}).length === 0 && typeof v === "object");
    const said = Object.keys(raw).filter(
      (key) => !nothing(raw[key]) && t.experts.test(key) && !t.other.test(key),
    );
    const saysDense = t.numberOfExperts.some((k) => k in raw && [0, 1, null].includes(raw[k]));
    if (numExperts || !said.length || saysDense) return;
    refuse(
      said[0],
      raw[said[0]],
      "speaks of experts, and the file of no number of them that this type reads",
    );
  }

  function attention(w, known) {
    const heads = w.whole("num_heads");
    const width = w.whole("d_model");
    if (known.divides) {
      const rule = `must be a multiple of num_attention_heads = ${heads}`;
      require(heads > 0 && width % heads === 0, "hidden_size", width, rule);
    }
    const ownNorm = known.qk_norm === undefined && w.flag("use_qk_norm");
    const norm = ownNorm ? "head" : (known.qk_norm ?? "none");
    const sizes = {
      num_heads: heads,
      num_kv_heads: w.whole("num_kv_heads", heads),
      d_head: w.said("d_head", 0) || Math.floor(width / Math.max(heads, 1)),
      qk_norm: ["none", "head", "width"].indexOf(norm),
      attention_sinks: known.attention_sinks ? 1 : 0,
      attention_bias:
        known.attention_bias || w.flag("attention_bias") || w.flag("use_qkv_bias") ? 1 : 0,
      attention_output_bias: known.output_bias && w.flag(known.output_bias) ? 1 : 0,
    };
    if (isNothing(w.values.kv_lora_rank)) return sizes;
    const ranks = ["kv_rank", "d_head_nope", "d_head_rope", "d_head_value"];
    const latent = Object.fromEntries(ranks.map((ours) => [ours, w.whole(ours)]));
    for (const ours of ranks)
      require(latent[ours] > 0, w.name(ours), latent[ours], "must be above 0");
    return {
      ...sizes,
      ...latent,
      q_rank: w.whole("q_rank", 0),
      d_head: latent.d_head_value,
      num_kv_heads: heads,
    };
  }

  function denseLayers(w, numLayers) {
    const first = w.said("num_dense_layers", 0);
    const step = w.said("moe_layer_step", 1);
    let end = numLayers - 1;
    if (![undefined, null, -1].includes(w.values.moe_layer_end_index))
      end = w.whole("moe_layer_end");
    const listed = w.values.mlp_only_layers ?? [];
    require(Array.isArray(listed), "mlp_only_layers", listed, "must be a list");
    require(step > 0, w.name("moe_layer_step") || "", step, "must be above 0");
    const all = Array.from({ length: numLayers }, (_, i) => i);
    return all.filter((i) => i < first || i > end || (i + 1) % step || listed.includes(i));
  }

  function experts(w, known, numExperts, numLayers) {
    const dExpert = w.whole(known.expert_width ? "d_ffn" : "d_expert");
    const dense = denseLayers(w, numLayers);
    let shared = w.whole("num_shared_experts", "n_shared_experts" in w.values ? undefined : 0);
    const dShared = w.said("d_shared", 0);
    if (dShared && dExpert && dShared % dExpert === 0) shared = dShared / dExpert;
    shared = shared || (dShared > 0 ? 1 : 0);
    return {
      num_experts: numExperts,
      num_active_experts: w.whole("num_active_experts"),
      num_shared_experts: shared,
      d_expert: dExpert,
      d_shared: dShared === shared * dExpert ? 0 : dShared,
      num_dense_layers: dense.length,
      d_ffn: dense.length ? w.whole("d_ffn") : 0,
    };
  }

  /* Of ModelConfig's own rules those that a config can break */
  function check(m, w) {
    const theirs = (ours) => w.name(ours) || ours;
    const above = ["vocab_size", "num_layers", "d_model", "num_heads", "num_kv_heads"];
    if (m.num_experts) above.push("num_active_experts", "d_expert");
    else above.push("d_ffn");
    for (const ours of above)
      require(m[ours] > 0, theirs(ours), m[ours], "must be a whole number >= 1");
    const divides = m.num_heads % m.num_kv_heads === 0;
    require(divides, theirs("num_kv_heads"), m.num_kv_heads, `must divide ${m.num_heads} heads`);
    if (!m.num_experts) return;
    const most = `exceeds ${m.num_experts} experts`;
    require(m.num_active_experts <= m.num_experts, theirs(
      "num_active_experts",
    ), m.num_active_experts, most);
    require(m.num_dense_layers < m.num_layers, theirs(
      "num_dense_layers",
    ), m.num_dense_layers, "leaves no MoE layer");
    require(!m.num_dense_layers || m.d_ffn > 0, theirs(
      "d_ffn",
    ), m.d_ffn, "must be positive: the model has dense layers");
  }

  /* The shape that a config describes; an Error of one line where it describes none, or where the
     page has no closed form */
  function read(given) {
    const t = ml.gallery.tables;
    t.experts = new RegExp(t.expertWords);
    t.other = new RegExp(t.otherWords);
    const raw = { ...given };
    for (const key of ["published", "source"]) delete raw[key];
    const kind = raw.model_type;
    if (typeof kind !== "string") {
      const looks = Object.keys(raw).slice(0, 3).join(", ");
      throw command(
        `no model_type, which names the class that reads a config (it has ${looks || "nothing"})`,
      );
    }
    if (!Object.hasOwn(t.forms, kind))
      throw command(`model_type ${kind.slice(0, 60)} has no closed form in this page`);
    const known = t.forms[kind];
    const w = inItsWords(raw, kind, t);
    requireCovered(raw, kind, w, t);
    const numLayers = w.whole("num_layers");
    require(numLayers <= MOST_LAYERS, "num_hidden_layers", numLayers, `exceeds ${MOST_LAYERS}`);
    const numExperts = w.said("num_experts", 0);
    requireNumber(raw, numExperts, t);
    const number = w.name("num_experts");
    const may = number === undefined || known.may_be_dense;
    require(numExperts > 0 ||
      may, number, 0, "must be above 0: this type has experts in every config");
    const none = {
      num_experts: 0,
      num_active_experts: 0,
      num_shared_experts: 0,
      d_expert: 0,
      d_shared: 0,
    };
    const model = {
      vocab_size: w.whole("vocab_size"),
      num_layers: numLayers,
      d_model: w.whole("d_model"),
      ...attention(w, known),
      ffn_bias: known.ffn_bias || w.flag("mlp_bias") ? 1 : 0,
      router_bias: known.router_bias ? 1 : 0,
      tie_embeddings: w.flag("tie_word_embeddings") ? 1 : 0,
      ...(numExperts
        ? experts(w, known, numExperts, numLayers)
        : { ...none, num_dense_layers: 0, d_ffn: w.whole("d_ffn") }),
    };
    check(model, w);
    return model;
  }

  /* The shape in a file that a reader chose or dropped */
  async function readFile(file) {
    require(file.size <=
      LARGEST, file.name, file.size, `bytes are more than the ${LARGEST} of a config`);
    let raw;
    try {
      raw = JSON.parse(await file.text());
    } catch {
      throw new Error(`${file.name}: not JSON. Drop the config.json of a model.`);
    }
    if (!isObject(raw)) throw new Error(`${file.name}: must be a JSON object with named fields.`);
    return read(raw);
  }

  Object.assign(ml, { configs: { read, readFile } });
})();
