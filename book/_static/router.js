/* The router microscope: plays the recording of router-data.js in every <div data-router>. The state
   is a frame, a layer and the ways of balancing that lie beside each other; everything shown
   (router_parts.js) is drawn anew from them. No library. */
"use strict";

(() => {
  const ml = window.moeLeverage;
  const { address, element, leftAside, remember } = ml.parts;
  const { CHARTS, titled } = ml.routerParts;
  const HERE = document.currentScript?.src;
  const KEYS = ["step", "layer", "beside"]; // of the address: steps done, layer from 1, ways shown
  const FIRST = ["loss", "bias", "none"]; // of the ways, where the address names none
  const FRAME_MILLISECONDS = 180;

  /* The recording, loaded when a microscope comes near the screen: it is most of the page's weight */
  function load() {
    const script = element("script", { src: new URL("router-data.js", HERE).href });
    return new Promise((done, failed) => {
      script.addEventListener("load", done);
      script.addEventListener("error", failed);
      document.head.append(script);
    });
  }

  /* A box for each way of balancing; the last that is shown stays */
  function ways(methods, changed) {
    const boxes = methods.map(([key, method]) => {
      const box = element("input", { type: "checkbox", name: key });
      box.addEventListener("change", () => {
        if (!boxes.some(([, one]) => one.checked)) box.checked = true;
        changed();
      });
      return [element("label", { class: "ml-check" }, box, titled(method)), box];
    });
    const root = element("fieldset", { class: "ml-ways" });
    root.append(element("legend", {}, "Beside each other"), ...boxes.map(([label]) => label));
    const names = () => boxes.filter(([, box]) => box.checked).map(([, box]) => box.name);
    const check = (wanted) => {
      const known = boxes.filter(([, box]) => wanted.includes(box.name));
      const shown = known.length ? wanted : FIRST;
      boxes.forEach(([, box]) => (box.checked = shown.includes(box.name)));
    };
    return { root, names, check };
  }

  function build(root, place, trace) {
    const { chart, choices, key, maps, numbers } = ml.routerParts;
    const methods = Object.entries(trace.methods);
    const numLayers = methods[0][1].counts[0].length;
    const last = trace.steps.length - 1;
    const id = `router-${place}`;
    const slider = element("input", {
      type: "range",
      id: `${id}-step`,
      min: "0",
      max: String(last),
      step: "1",
      value: String(last),
    });
    const layers = element("select", { id: `${id}-layer` });
    for (let l = 0; l < numLayers; l++)
      layers.append(element("option", { value: String(l) }, String(l + 1)));
    layers.value = String(numLayers - 1);
    const play = element("button", { type: "button" }, "▶ Play");
    const state = element("output", { for: `${id}-step ${id}-layer`, "aria-live": "polite" });
    const beside = ways(methods, () => {
      update();
      keep();
    });
    const [loads, texts] = [maps, choices].map((make) => methods.map((one) => make(trace, one)));
    const [table, charts] = [numbers(), CHARTS.map((spec) => chart(trace, spec))];
    const side = (style, these) =>
      element("div", { class: style }, ...these.map((part) => part.root));
    root.classList.add("ml-calculator", "ml-router");
    root.replaceChildren(
      element(
        "div",
        { class: "ml-controls" },
        play,
        element("label", { for: slider.id, class: "ml-slider" }, "Step of training", slider),
        element("label", { for: layers.id }, "Layer of charts and text", layers),
      ),
      beside.root,
      state,
      key(),
      side("ml-panels", loads),
      table.root,
      side("ml-charts", charts),
      element(
        "p",
        { class: "ml-note" },
        "A fixed text in the chosen layer: under each token its two experts.",
      ),
      side("ml-panels", texts),
    );
    let timer = 0;

    function update() {
      const [frame, layer] = [Number(slider.value), Number(layers.value)];
      const step = trace.steps[frame];
      slider.setAttribute("aria-valuetext", `step ${step} of ${trace.steps[last]}`);
      state.textContent = `After ${step} of ${trace.steps[last]} steps, ${(step * trace.batch_tokens).toLocaleString("en")} tokens; layer ${layer + 1}.`;
      const names = beside.names();
      const shown = methods.filter(([name]) => names.includes(name));
      methods.forEach(([name], i) => {
        for (const part of [loads[i], texts[i]]) {
          part.root.hidden = !names.includes(name);
          if (!part.root.hidden) part.show(frame, layer);
        }
      });
      [table, ...charts].forEach((part) => part.show(frame, layer, shown));
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "▶ Play";
      state.setAttribute("aria-live", "polite");
      keep();
    }

    function start() {
      if (Number(slider.value) === last) slider.value = "0";
      state.setAttribute("aria-live", "off"); // a reader would never be done with the last frame
      play.textContent = "❚❚ Pause";
      timer = setInterval(() => {
        slider.value = String(Number(slider.value) + 1);
        update();
        if (Number(slider.value) === last) stop();
      }, FRAME_MILLISECONDS);
    }

    /* Into the address when the reader rests: not each picture of a film */
    function keep() {
      const [frame, layer] = [Number(slider.value), Number(layers.value)];
      const step = frame === last ? "" : trace.steps[frame];
      const names = beside.names().join();
      remember(KEYS, {
        step,
        layer: layer === numLayers - 1 ? "" : layer + 1,
        beside: names === FIRST.join() ? "" : names,
      });
    }

    function follow() {
      const given = address();
      const step = given.step === undefined ? trace.steps[last] : Number(given.step);
      const far = trace.steps.map((s) => Math.abs(s - step));
      const frame = Number.isFinite(step) ? far.indexOf(Math.min(...far)) : last;
      const layer = Number(given.layer) - 1;
      const isLayer = layer >= 0 && layer < numLayers && layer % 1 === 0;
      const named = (given.beside || "").split(",").filter(Boolean);
      slider.value = String(frame);
      beside.check(named);
      layers.value = String(isLayer ? layer : numLayers - 1);
      update();
      const isStep = step >= trace.steps[0] && step <= trace.steps[last];
      const unknown = named.filter((name) => !methods.some(([known]) => known === name));
      const asked = unknown.map((name) => ["beside", name]);
      if (given.step && !isStep) asked.push(["step", given.step]);
      if (given.layer && !isLayer) asked.push(["layer", given.layer]);
      state.append(leftAside(asked));
    }

    play.addEventListener("click", () => {
      if (timer) stop();
      else {
        start();
        update();
      }
    });
    slider.addEventListener("input", () => {
      if (timer) stop();
      update();
      keep();
    });
    layers.addEventListener("change", () => {
      update();
      keep();
    });
    window.addEventListener("hashchange", follow);
    follow();
  }

  /* Build every microscope once one of them is near the screen */
  function watch(roots) {
    const near = new IntersectionObserver(
      async (seen) => {
        if (!seen.some((one) => one.isIntersecting)) return;
        near.disconnect();
        try {
          await load();
          roots.forEach((root, place) => build(root, place, window.moeRouter));
        } catch {
          const said =
            "The recording could not be loaded; the figure and the table below stand in for it.";
          roots.forEach((root) => root.replaceChildren(element("p", { role: "alert" }, said)));
        }
      },
      { rootMargin: "600px" },
    );
    roots.forEach((root) => near.observe(root));
  }

  document.addEventListener("DOMContentLoaded", () =>
    watch([...document.querySelectorAll("[data-router]")]),
  );
})();
