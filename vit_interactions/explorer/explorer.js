// The patch explorer. Everything on the page is computed from the data that Python embedded, with the same definitions
// as vit_interactions.functional: windows (Eq. 4), fields (Eq. 6) and tendency (Eq. 7) of arXiv 2203.05922.
"use strict";

(async () => {
  const byId = (id) => document.getElementById(id);
  const facts = JSON.parse(byId("facts").textContent);
  const [rows, cols] = facts.grid;
  const N = rows * cols;

  const unpack = async (id) => {
    const text = atob(byId(id).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    byId(id).textContent = "";
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  // ---------------------------------------------------------------- windows and fields

  const mathematics = (pairs, order) => {
    // pairs[p * N + q]: first step of alpha at which q is relevant to p; order[q]: rank of q by column variance.
    const windows = (step) => {
      const found = new Int16Array(4 * N);
      for (let p = 0; p < N; p++) {
        const x = p % cols, y = (p - x) / cols;
        let left = x, top = y, right = x, bottom = y;
        for (let row = 0, q = p * N; row < rows; row++) {
          for (let col = 0; col < cols; col++, q++) {
            if (pairs[q] > step) continue;
            if (col < left) left = col;
            if (col > right) right = col;
            if (row < top) top = row;
            if (row > bottom) bottom = row;
          }
        }
        found.set([left, top, right, bottom], 4 * p);
      }
      return found;
    };

    // The smallest box around each patch with a fraction of its relevant patches, as functional.smallest_boxes.
    const smallestWindows = (step, coverage) => {
      const found = new Int16Array(4 * N);
      const strip = new Int32Array(cols + 1), sums = new Int32Array((rows + 1) * cols);
      for (let p = 0; p < N; p++) {
        const x = p % cols, y = (p - x) / cols, filled = new Uint8Array(rows);
        let total = 0;
        for (let row = 0, q = p * N; row < rows; row++)
          for (let col = 0; col < cols; col++, q++) {
            const relevant = pairs[q] <= step ? 1 : 0;
            sums[(row + 1) * cols + col] = sums[row * cols + col] + relevant;
            filled[row] |= relevant;
            total += relevant;
          }
        filled[y] = 1;
        const needed = Math.ceil(coverage * total - 1e-9);
        let best = Infinity, box = null;
        const take = (area, left, top, right, bottom) => {
          if (area < best || (area === best && top === box[1] && (left < box[0] || (left === box[0] && bottom < box[3])))) {
            [best, box] = [area, [left, top, right, bottom]];
          }
        };
        for (let top = 0; top <= y; top++) {
          if (!filled[top]) continue;
          for (let bottom = y; bottom < rows; bottom++) {
            if (!filled[bottom]) continue;
            for (let col = 0; col < cols; col++) strip[col + 1] = strip[col] + sums[(bottom + 1) * cols + col] - sums[top * cols + col];
            if (strip[cols] < needed) continue;
            for (let left = 0, right = x; left <= x; left++) {
              while (right < cols && strip[right + 1] - strip[left] < needed) right++;
              if (right === cols) break;
              take((right - left + 1) * (bottom - top + 1), left, top, right, bottom);
            }
          }
        }
        found.set(box, 4 * p);
      }
      return found;
    };

    const dropped = (count) => Uint8Array.from(order, (place) => (place < count ? 1 : 0));

    // Field size |S_p| and tendency of every patch.
    const fields = (window, drop) => {
      const size = new Int32Array(N), tendency = new Float64Array(2 * N);
      for (let p = 0; p < N; p++) {
        const x = p % cols, y = (p - x) / cols;
        let left = x, top = y, right = x, bottom = y, count = 0;
        for (let row = window[4 * p + 1]; row <= window[4 * p + 3]; row++) {
          for (let col = window[4 * p]; col <= window[4 * p + 2]; col++) {
            const q = row * cols + col;
            if (drop[q] && q !== p) continue;
            count++;
            if (col < left) left = col;
            if (col > right) right = col;
            if (row < top) top = row;
            if (row > bottom) bottom = row;
          }
        }
        const dx = left + right - 2 * x, dy = top + bottom - 2 * y, length = Math.hypot(dx, dy);
        size[p] = count;
        if (length > 0) tendency.set([dx / length, dy / length], 2 * p);
      }
      return { size, tendency };
    };

    const field = (p, window, drop) => {
      const inside = new Uint8Array(N);
      for (let row = window[4 * p + 1]; row <= window[4 * p + 3]; row++)
        for (let col = window[4 * p]; col <= window[4 * p + 2]; col++) inside[row * cols + col] = 1 - drop[row * cols + col];
      inside[p] = 1;
      return inside;
    };

    return { windows, smallestWindows, dropped, fields, field };
  };

  // ---------------------------------------------------------------- loading

  if (typeof DecompressionStream === "undefined") throw new Error("this browser does not support DecompressionStream");
  const bokehCode = document.createElement("script");
  bokehCode.textContent = new TextDecoder().decode(await unpack("bokeh"));
  document.head.append(bokehCode);

  const pairs = await unpack("pairs");
  const order = new Uint16Array((await unpack("order")).buffer);
  const packed = await unpack("attention");
  const limits = new Float64Array((await unpack("limits")).buffer);
  const ends = await unpack("ends");
  const peaks = new Uint16Array((await unpack("peaks")).buffer);
  const insides = new Uint16Array((await unpack("insides")).buffer);
  const featureLayers = facts.feature_layers;
  const similarities = featureLayers.length ? await unpack("similarity") : null;
  // Stored as differences from the layer before; bytes wrap around.
  for (let i = N * (N - 1) / 2; similarities && i < similarities.length; i++) similarities[i] += similarities[i - N * (N - 1) / 2];
  const similarityEnds = featureLayers.length ? await unpack("similarity_ends") : null;
  const tints = featureLayers.length ? await unpack("tints") : null;
  const maths = mathematics(pairs, order);
  const attentionAt = facts.levels > 16 ? (i) => packed[i] : (i) => (packed[i >> 1] >> (4 * (i & 1))) & 15;

  const sources = {}, views = {};
  for (const [place, item] of Object.entries(facts.plots)) {
    byId(place).textContent = "";
    const manager = await Bokeh.embed.embed_item(item, place);
    views[place] = [...manager][0];
    // The plot's own element, which has an accessible name, takes the keyboard focus.
    views[place].canvas_view.events_el.removeAttribute("tabindex");
    for (const model of views[place].model.document._all_models.values())
      if (model.type === "ColumnDataSource" && model.name) sources[model.name] = model;
  }

  // ---------------------------------------------------------------- drawing

  const colorsOf = (palette) => Uint32Array.from(palette, ([red, green, blue, alpha]) => (alpha << 24 | blue << 16 | green << 8 | red) >>> 0);
  const over = colorsOf(facts.palette), diverging = colorsOf(facts.diverging), NONE = 0;
  const ramp = (palette) => `linear-gradient(to right, ${[0, 64, 128, 192, 255].map((i) => `rgb(${palette[i].slice(0, 3)})`).join(", ")})`;
  const withAlpha = (color, alpha) => ((color & 0xffffff) | (Math.round(255 * alpha) << 24)) >>> 0;
  const opaque = over.map((color) => withAlpha(color, 1));
  const UNSEEN = 90;
  const [x0, y0, x1, y1] = facts.extent;
  const dx = (x1 - x0) / cols, dy = (y1 - y0) / rows;

  const setImage = (name, pixels, height, width, left, top, right, bottom) => {
    const source = sources[name], Pixels = source.data.image[0].constructor;
    source.data = { image: [new Pixels(pixels, [height, width])], x: [left], y: [top], dw: [right - left], dh: [bottom - top] };
  };
  const setCells = (name, colors) => setImage(name, colors, rows, cols, x0, y0, x1, y1);
  const quad = (left, top, right, bottom) => ({ left: [left], top: [top], right: [right], bottom: [bottom] });
  const box = (p) => {
    const col = p % cols, row = (p - col) / cols;
    return [x0 + col * dx, y0 + row * dy, x0 + (col + 1) * dx, y0 + (row + 1) * dy];
  };
  // The triangles of figures.display.triangles.
  const triangles = (below, above) => {
    const half = facts.mark / 2;
    const few = (patches) => (patches.length > facts.crowd * N ? [] : patches);
    const shapes = [...few(below).map((p) => [p, half]), ...few(above).map((p) => [p, -half])].map(([p, tip]) => {
      const col = p % cols, x = col + 0.5, y = (p - col) / cols + 0.5;
      return [[x, y + tip], [x + half, y - tip], [x - half, y - tip]];
    });
    return { xs: shapes.map((s) => s.map(([x]) => x0 + x * dx)), ys: shapes.map((s) => s.map(([, y]) => y0 + y * dy)) };
  };
  const quads = (cells) => {
    const boxes = cells.map(box);
    return { left: boxes.map((b) => b[0]), top: boxes.map((b) => b[1]), right: boxes.map((b) => b[2]), bottom: boxes.map((b) => b[3]) };
  };

  const drawImage = async () => {
    const image = byId("image");
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const [width, height] = facts.size;
    const color = new Uint32Array(data.buffer), gray = new Uint32Array(color.length);
    for (let i = 0; i < color.length; i++) {
      const light = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
      const pale = Math.round(0.75 * light + 50);
      // Pixels outside all patches are faded.
      const x = ((i % canvas.width) + 0.5) * width / canvas.width, y = (Math.floor(i / canvas.width) + 0.5) * height / canvas.height;
      const opacity = x > x0 && x < x1 && y > y0 && y < y1 ? 255 : UNSEEN;
      gray[i] = (opacity << 24 | pale << 16 | pale << 8 | pale) >>> 0;
      color[i] = ((color[i] & 0xffffff) | opacity << 24) >>> 0;
    }
    for (const name of facts.panels) {
      setImage(`${name}_image`, name === "field" ? color : gray, canvas.height, canvas.width, 0, 0, width, height);
    }
  };

  const state = {
    patch: facts.patch, pinned: false, alpha: facts.alpha_step, beta: facts.beta_step, layer: facts.layer, head: 0,
    features: featureLayers.length - 1,
    windows: null, dropped: null, fields: null,
  };

  const share = (part) => `${part < 0.01 ? (100 * part).toPrecision(2) : part < 0.1 ? (100 * part).toFixed(1) : Math.round(100 * part)}%`;
  const shown = (value) => (value === 0 ? "0" : value >= 0.001 ? value.toPrecision(2) : value.toExponential(1));
  const placeName = (p) => `row ${Math.floor(p / cols)}, column ${p % cols}`;
  const say = (id, text) => { byId(id).textContent = text; };

  // The limits are those of figures.display.log_scale without the patch itself; constants get no color.
  const drawInteractions = () => {
    const p = state.patch, colors = new Uint32Array(N), row = pairs.subarray(p * N, (p + 1) * N);
    const [low, high] = limits.subarray(2 * p, 2 * p + 2), flat = !(high - low > facts.noise * high);
    const below = [], above = [];
    let best = -1;
    for (let q = 0; q < N; q++) {
      if (q === p && N > 1) continue;
      const u = facts.values[row[q]];
      if (!flat && low - u > facts.noise * low) below.push(q);
      if (!flat && u - high > facts.noise * high) above.push(q);
      if (best < 0 || row[q] < row[best]) best = q;
    }
    const shades = facts.values.map((u) => (flat ? 0 : Math.round(255 * Math.min(Math.max(0, Math.log(u / low) / Math.log(high / low)), 1))));
    for (let q = 0; q < N; q++) colors[q] = flat ? NONE : over[shades[row[q]]];
    setCells("interactions_cells", colors);
    sources.interactions_clipped.data = triangles(below, above);
    say("u-low", flat ? "U is constant" : `U ${below.length ? "▼ ≤" : "="} ${shown(low)}`);
    say("u-high", flat ? "" : `${above.length ? "▲ ≥ " : ""}${shown(high)} (log scale)`);
    say("interactions-read", best === p ? "" : `Strongest interaction: patch in ${placeName(best)}, U = ${shown(facts.values[row[best]])}.`);
  };

  const boundary = (inside) => {
    const at = (row, col) => (row >= 0 && row < rows && col >= 0 && col < cols ? inside[row * cols + col] : 0);
    const lines = { x0: [], y0: [], x1: [], y1: [] };
    const add = (c0, r0, c1, r1) => {
      lines.x0.push(x0 + c0 * dx); lines.y0.push(y0 + r0 * dy); lines.x1.push(x0 + c1 * dx); lines.y1.push(y0 + r1 * dy);
    };
    for (let row = 0; row <= rows; row++)
      for (let col = 0; col <= cols; col++) {
        if (col < cols && at(row, col) !== at(row - 1, col)) add(col, row, col + 1, row);
        if (row < rows && at(row, col) !== at(row, col - 1)) add(col, row, col, row + 1);
      }
    return lines;
  };

  const drawField = () => {
    const p = state.patch, [left, top, right, bottom] = state.windows.subarray(4 * p, 4 * p + 4);
    const inside = maths.field(p, state.windows, state.dropped);
    const window = new Uint8Array(N), hatched = [], relevant = { x: [], y: [] };
    const colors = new Uint32Array(N);
    for (let q = 0; q < N; q++) {
      const col = q % cols, row = (q - col) / cols;
      window[q] = col >= left && col <= right && row >= top && row <= bottom ? 1 : 0;
      if (window[q] && !inside[q]) hatched.push(q);
      if (!window[q]) colors[q] = withAlpha(0, 0.55);
      if (q !== p && pairs[p * N + q] <= state.alpha) {
        relevant.x.push(x0 + (col + 0.5) * dx); relevant.y.push(y0 + (row + 0.5) * dy);
      }
    }
    setCells("field_cells", colors);
    sources.field_dropped.data = quads(hatched);
    sources.field_boundary.data = boundary(inside);
    sources.field_relevant.data = relevant;
    sources.field_window.data = quad(x0 + (left - 0.2) * dx, y0 + (top - 0.2) * dy, x0 + (right + 1.2) * dx, y0 + (bottom + 1.2) * dy);
    const wide = right - left + 1, high = bottom - top + 1;
    say("field-read", `Window: ${wide} × ${high} = ${wide * high} patches, ${hatched.length} of them dropped. ` +
      `Field: ${state.fields.size[p]} of ${N} patches (${share(state.fields.size[p] / N)}).`);
  };

  const many = N > facts.many;
  const arrow = (p, scale) => {
    const col = p % cols, row = (p - col) / cols;
    const tx = state.fields.tendency[2 * p], ty = state.fields.tendency[2 * p + 1];
    const place = (along, across) => [
      x0 + (col + 0.5 + scale * (along * tx - across * ty)) * dx, y0 + (row + 0.5 + scale * (along * ty + across * tx)) * dy,
    ];
    const thin = many && scale === 1 ? 0.09 : 0.07, wide = many && scale === 1 ? 0.26 : 0.24;
    const corners = [[-0.42, -thin], [0.03, -thin], [0.03, -wide], [0.45, 0], [0.03, wide], [0.03, thin], [-0.42, thin]];
    return corners.map(([along, across]) => place(along, across));
  };
  const arrows = (patches, scale) => {
    const shapes = patches.map((p) => arrow(p, scale));
    return { xs: shapes.map((s) => s.map((c) => c[0])), ys: shapes.map((s) => s.map((c) => c[1])) };
  };
  const moves = (p) => state.fields.tendency[2 * p] !== 0 || state.fields.tendency[2 * p + 1] !== 0;

  const drawArrows = () => {
    const all = [...Array(N).keys()];
    sources.tendency_arrows.data = arrows(all.filter(moves), 1);
    const still = all.filter((p) => !moves(p));
    sources.tendency_still.data = {
      x: still.map((p) => x0 + ((p % cols) + 0.5) * dx), y: still.map((p) => y0 + (Math.floor(p / cols) + 0.5) * dy),
    };
  };
  const drawTendency = () => {
    const p = state.patch;
    sources.tendency_chosen.data = arrows(moves(p) ? [p] : [], many ? 5 : 2);
    const words = ["right", "lower right", "down", "lower left", "left", "upper left", "up", "upper right"];
    const angle = Math.atan2(state.fields.tendency[2 * p + 1], state.fields.tendency[2 * p]);
    const word = words[(Math.round(angle / (Math.PI / 4)) + 8) % 8];
    say("tendency-read", moves(p) ? `The field extends farther ${word === "up" || word === "down" ? word : `to the ${word}`}.` : "The field is symmetric.");
  };

  const heads = facts.heads, layers = facts.layers, columns = facts.columns, lines = facts.lines;
  const tilePlace = (layer, head) => (heads > 1 ? [layer, head] : [layer % columns, Math.floor(layer / columns)]);
  const tileAt = (column, line) => (heads > 1 ? [column, line] : [line * columns + column, 0]);
  const toShade = 255 / (facts.levels - 1);
  const shadeAt = (layer, head, p, q) => Math.round(attentionAt(((layer * heads + head) * N + p) * N + q) * toShade);

  const drawMosaic = () => {
    if (!layers) return;
    const p = state.patch, width = columns * (cols + 1) - 1, height = lines * (rows + 1) - 1;
    const pixels = new Uint32Array(width * height);
    for (let layer = 0; layer < layers; layer++)
      for (let head = 0; head < heads; head++) {
        const [column, line] = tilePlace(layer, head);
        for (let q = 0; q < N; q++) {
          const col = q % cols, row = (q - col) / cols;
          pixels[(line * (rows + 1) + row) * width + column * (cols + 1) + col] = opaque[shadeAt(layer, head, p, q)];
        }
      }
    setImage("mosaic_cells", pixels, height, width, 0.5 / (cols + 1), 0.5 / (rows + 1), columns - 0.5 / (cols + 1), lines - 0.5 / (rows + 1));
  };
  const drawHead = () => {
    if (!layers) return;
    const { layer, head, patch: p } = state, row = (layer * heads + head) * N + p;
    const colors = new Uint32Array(N);
    const clipped = ends[row] < 255, above = [];
    for (let q = 0; q < N; q++) {
      const shade = shadeAt(layer, head, p, q);
      colors[q] = over[shade];
      if (clipped && shade === 255) above.push(q);
    }
    setCells("head_cells", colors);
    sources.head_clipped.data = triangles([], above);
    const [column, line] = tilePlace(layer, head);
    sources.mosaic_chosen.data = quad(column, line, column + 1, line + 1);
    const name = heads > 1 ? `Layer ${layer}, head ${head}` : facts.form === "means" ? `Layer ${layer}, mean of its heads` : `Layer ${layer}`;
    say("head-title", name);
    const peak = peaks[row] / 65535, rest = 1 - insides[row] / 65535;
    say("head-read", `${clipped ? "▲ marks patches at or above the 98th percentile. " : ""}The patch gives ${share(peak)} of its attention to one patch` +
      (facts.prefix ? `, and ${share(Math.max(rest, 0))} to the ${facts.prefix === 1 ? "prefix token" : `${facts.prefix} prefix tokens`}.` : "."));
  };

  const similarityOf = (steps) => steps / (facts.similarity_steps / 2) - 1;
  // Pairs p > q are stored once: row by row of the lower triangle.
  const similarityAt = (place, p, q) => {
    if (p === q) return 1;
    const pair = p > q ? p * (p - 1) / 2 + q : q * (q - 1) / 2 + p;
    return similarityOf(similarities[place * (N * (N - 1) / 2) + pair]);
  };
  // The limits are those of figures.display.linear_scale without the patch itself; constants get no color.
  const drawSimilarity = () => {
    if (!featureLayers.length) return;
    const p = state.patch, colors = new Uint32Array(N);
    const row = Array.from({ length: N }, (_, q) => similarityAt(state.features, p, q));
    const end = 2 * (state.features * N + p);
    const [first, last] = similarityEnds.subarray(end, end + 2), [low, high] = [similarityOf(first), similarityOf(last)];
    const signed = low < 0 && first + last === facts.similarity_steps, palette = signed ? diverging : over, below = [], above = [];
    let best = -1;
    row.forEach((value, q) => {
      if (high > low) colors[q] = palette[Math.round(255 * Math.min(Math.max(0, (value - low) / (high - low)), 1))];
      if (q === p && N > 1) return;
      if (value < low - facts.noise) below.push(q);
      if (value > high + facts.noise) above.push(q);
      if (best < 0 || value > row[best]) best = q;
    });
    setCells("similarity_cells", colors);
    sources.similarity_clipped.data = triangles(below, above);
    byId("s-ramp").style.background = ramp(signed ? facts.diverging : facts.palette);
    say("similarity-title", `Similarity, layer ${featureLayers[state.features]}`);
    say("s-low", `${below.length ? "▼ ≤ " : ""}${low.toFixed(2)}`); say("s-high", `${above.length ? "▲ ≥ " : ""}${high.toFixed(2)} (cosine)`);
    say("similarity-read", N > 1 ? `Most similar: patch in ${placeName(best)}, ${row[best].toFixed(2)}.` : "");
  };
  const drawFeatures = () => {
    if (!featureLayers.length) return;
    const place = state.features, colors = new Uint32Array(N);
    for (let q = 0; q < N; q++) {
      const [red, green, blue] = tints.subarray(3 * (place * N + q), 3 * (place * N + q) + 3);
      colors[q] = (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
    }
    setCells("pca_cells", colors);
    const parts = ["red", "green", "blue"].map((name, k) => `${name} ${Math.round(100 * facts.explained[place][k])}%`);
    say("pca-title", `Colors, layer ${featureLayers[place]}`);
    say("pca-read", `Variance explained: ${parts.join(", ")}.`);
    say("feature-layer-read", `${featureLayers[place]}`);
    drawSimilarity();
  };

  const drawPatch = () => {
    const [left, top, right, bottom] = box(state.patch);
    for (const name of facts.panels) sources[`${name}_patch`].data = quad(left, top, right, bottom);
    say("where", `Patch in ${placeName(state.patch)}`);
    say("pinned", state.pinned ? "pinned: click it again or press Esc to unpin" : "click to pin");
    byId("bar").classList.toggle("is-held", state.pinned);
    drawInteractions(); drawField(); drawTendency(); drawMosaic(); drawHead(); drawSimilarity();
  };

  const computeFields = () => {
    state.windows = facts.coverage === 1 ? maths.windows(state.alpha) : maths.smallestWindows(state.alpha, facts.coverage);
    state.dropped = maths.dropped(facts.drop_counts[state.beta]);
    state.fields = maths.fields(state.windows, state.dropped);
    let left = 0, kept = 0;
    for (let p = 0; p < N; p++) {
      const w = state.windows;
      left += (w[4 * p + 2] - w[4 * p] + 1) * (w[4 * p + 3] - w[4 * p + 1] + 1);
      kept += state.fields.size[p];
    }
    const alpha = facts.alphas[state.alpha], beta = facts.betas[state.beta], drops = facts.drop_counts[state.beta];
    say("alpha-read", `${alpha}`); say("beta-read", `${beta}`);
    byId("alpha").setAttribute("aria-valuetext", `${alpha}`); byId("beta").setAttribute("aria-valuetext", `${beta}`);
    say("alpha-says", `the ${share(alpha)} of pairs with the largest U are relevant`);
    say("beta-says", `${drops} of ${N} patches are dropped as indiscriminative (their column of U varies least)`);
    say("all-read", `All windows together cover ${share(left / (N * N))} of all patch pairs, all fields ${share(kept / (N * N))}.`);
    byId("open").hidden = left <= facts.open * N * N;
    drawArrows();
  };

  // ---------------------------------------------------------------- interaction

  let waiting = false;
  const todo = new Set();
  const later = (task) => {
    todo.add(task);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const tasks = [...todo];
      todo.clear();
      if (tasks.includes(computeFields)) computeFields();
      if (tasks.includes(computeFields) || tasks.includes(drawPatch)) drawPatch();
      else if (tasks.includes(drawHead)) drawHead();
      if (tasks.includes(drawFeatures)) drawFeatures();
    });
  };

  const choose = (patch) => {
    if (patch !== state.patch) { state.patch = patch; later(drawPatch); }
  };
  const hold = (pinned) => { state.pinned = pinned; later(drawPatch); };
  const step = (value, by, count) => Math.min(Math.max(value + by, 0), count - 1);
  const arrowKeys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // Convert the pointer position to plot coordinates.
  const locate = (place, event) => {
    const view = views[place];
    const outer = view.el.getBoundingClientRect();
    return [view.frame.x_scale.invert(event.clientX - outer.left), view.frame.y_scale.invert(event.clientY - outer.top)];
  };
  const patchAt = (place, event) => {
    const [x, y] = locate(place, event), col = Math.floor((x - x0) / dx), row = Math.floor((y - y0) / dy);
    return col >= 0 && col < cols && row >= 0 && row < rows ? row * cols + col : -1;
  };

  for (const name of facts.panels) {
    const place = byId(`plot-${name}`);
    place.addEventListener("pointermove", (event) => {
      const patch = event.pointerType === "touch" || state.pinned ? -1 : patchAt(place.id, event);
      if (patch >= 0) choose(patch);
    });
    place.addEventListener("click", (event) => {
      const patch = patchAt(place.id, event);
      if (patch < 0) return;
      hold(!(state.pinned && patch === state.patch));
      choose(patch);
    });
    place.addEventListener("keydown", (event) => {
      const move = arrowKeys[event.key];
      if (event.key === "Escape") hold(false);
      else if (event.key === "Enter" || event.key === " ") hold(!state.pinned);
      else if (move && !event.altKey && !event.ctrlKey && !event.metaKey) {
        const col = state.patch % cols, row = (state.patch - col) / cols;
        hold(true);
        choose(step(row, move[1], rows) * cols + step(col, move[0], cols));
      } else return;
      event.preventDefault();
    });
  }

  const chooseHead = (layer, head) => {
    if (layer < 0 || layer >= layers || head < 0 || head >= heads) return;
    [state.layer, state.head] = [layer, head];
    later(drawHead);
  };
  const mosaic = byId("plot-mosaic");
  if (mosaic) {
    mosaic.addEventListener("click", (event) => {
      const [x, y] = locate("plot-mosaic", event);
      if (x >= 0 && x < columns && y >= 0 && y < lines) chooseHead(...tileAt(Math.floor(x), Math.floor(y)));
    });
    mosaic.addEventListener("keydown", (event) => {
      const move = arrowKeys[event.key];
      if (!move) return;
      const [column, line] = tilePlace(state.layer, state.head);
      chooseHead(...tileAt(step(column, move[0], columns), step(line, move[1], lines)));
      event.preventDefault();
    });
  }

  for (const [name, values] of [["alpha", facts.alphas], ["beta", facts.betas]]) {
    const slider = byId(name);
    slider.max = values.length - 1;
    slider.value = state[name];
    slider.addEventListener("input", () => { state[name] = Number(slider.value); later(computeFields); });
  }

  if (featureLayers.length) {
    const slider = byId("feature-layer");
    slider.max = featureLayers.length - 1;
    slider.value = state.features;
    slider.addEventListener("input", () => { state.features = Number(slider.value); later(drawFeatures); });
  }

  // ---------------------------------------------------------------- start

  for (const bar of document.querySelectorAll(".ramp > i")) bar.style.background = ramp(facts.palette);

  await drawImage();
  setCells("tendency_cells", new Uint32Array(N).fill(withAlpha(0, 0.5))); // arrows are bright
  computeFields();
  drawPatch();
  drawFeatures();

  // The current state, for tests and the console.
  window.explorer = {
    now: () => ({
      patch: [Math.floor(state.patch / cols), state.patch % cols], held: state.pinned, layer: state.layer, head: state.head,
      alpha: facts.alphas[state.alpha], beta: facts.betas[state.beta],
      window: [...state.windows.subarray(4 * state.patch, 4 * state.patch + 4)],
      field: [...maths.field(state.patch, state.windows, state.dropped)],
      tendency: [...state.fields.tendency.subarray(2 * state.patch, 2 * state.patch + 2)],
      u: Array.from(pairs.subarray(state.patch * N, (state.patch + 1) * N), (k) => facts.values[k]),
      colors: [...sources.interactions_cells.data.image[0]],
      attention: layers ? Array.from({ length: N }, (_, q) =>
        (attentionAt(((state.layer * heads + state.head) * N + state.patch) * N + q) / (facts.levels - 1) *
        ends[(state.layer * heads + state.head) * N + state.patch] / 255) ** 2 *
        peaks[(state.layer * heads + state.head) * N + state.patch] / 65535) : null,
      featureLayer: featureLayers[state.features],
      similarity: featureLayers.length ? Array.from({ length: N }, (_, q) => similarityAt(state.features, state.patch, q)) : null,
      similarityColors: featureLayers.length ? [...sources.similarity_cells.data.image[0]] : null,
      tints: featureLayers.length ? [...tints.subarray(3 * state.features * N, 3 * (state.features + 1) * N)] : null,
    }),
    all: () => ({ windows: [...state.windows], dropped: [...state.dropped], sizes: [...state.fields.size], tendency: [...state.fields.tendency] }),
  };
  document.documentElement.dataset.ready = "yes";
})().catch((error) => {
  const failed = document.getElementById("failed");
  failed.hidden = false;
  failed.textContent = `The page could not be drawn: ${error.message}. It needs a browser from 2023 or later.`;
});
