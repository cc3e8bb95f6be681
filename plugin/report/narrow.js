// What a figure changes where the page is narrow: panels stand below one another, titles are broken into lines.
// `narrowed(spec, width)` gives layout changes in relayout's dotted keys, and `height` where panels were moved.
var narrowed = (function () {
  "use strict";
  var LETTER = 6.6, LINE = 18, TICKS = 22, MOST_IN_A_COLUMN = 4;

  function lines(text, width) {
    var most = Math.max(8, Math.floor(width / LETTER));
    return String(text).split(/<br>/).reduce(function (done, part) {
      var line = "";
      part.split(" ").forEach(function (word) {
        if (line && (line + " " + word).replace(/<[^>]*>/g, "").replace(/&[^;]*;/g, "-").length > most) {
          done.push(line);
          line = word;
        } else line = line ? line + " " + word : word;
      });
      return done.concat(line);
    }, []);
  }

  function titleOf(axis) { return axis.title ? axis.title.text || "" : ""; }

  // the pairs of axes that traces are drawn on, row by row, with the title that stands over each
  function panels(spec) {
    var seen = {}, layout = spec.layout;
    spec.data.forEach(function (trace) {
      var x = (trace.xaxis || "x").replace("x", "xaxis"), y = (trace.yaxis || "y").replace("y", "yaxis");
      if (!layout[x] || !layout[y] || seen[x + y]) return;
      seen[x + y] = {x: x, y: y, across: layout[x].domain || [0, 1], up: layout[y].domain || [0, 1], title: -1};
    });
    var all = Object.keys(seen).map(function (key) { return seen[key]; });
    all.sort(function (a, b) { return b.up[1] - a.up[1] || a.across[0] - b.across[0]; });
    all.forEach(function (panel) {
      (layout.annotations || []).forEach(function (note, k) {
        var over = note.xref === "paper" && note.yref === "paper" && note.yanchor === "bottom" && !note.showarrow;
        var middle = Math.abs(note.x - (panel.across[0] + panel.across[1]) / 2) < 0.01;
        if (over && middle && Math.abs(note.y - panel.up[1]) < 0.02) panel.title = k;
      });
    });
    return all;
  }

  function legendHeight(spec, width) {
    var names = spec.data.filter(function (t) {
      return t.showlegend !== false && t.name && t.type !== "heatmap";
    });
    if (names.length < 2 || spec.layout.showlegend === false) return names.length && spec.layout.showlegend ? 24 : 0;
    var each = names.map(function (t) { return 46 + LETTER * t.name.length; });
    var sum = each.reduce(function (a, b) { return a + b; }, 0), widest = Math.max.apply(null, each);
    var rows = sum <= width ? 1 : Math.ceil(names.length / Math.max(1, Math.floor(width / widest)));
    return 10 + 19 * rows;
  }

  function shows(layout, name) {
    var axis = layout[name], group = axis.matches || name.replace("axis", "");
    return axis.visible !== false && Object.keys(layout).some(function (other) {
      var one = layout[other];
      if (!/^[xy]axis/.test(other) || !one || one.showticklabels === false) return false;
      return other === name || one.matches === group || other.replace("axis", "") === group;
    });
  }

  // the names on an axis of names: "x" or "y" of a panel
  function namesOn(spec, panel, letter) {
    var names = {}, axis = panel[letter];
    if (spec.layout[axis].type === "category") spec.data.forEach(function (trace) {
      if ((trace[letter + "axis"] || letter).replace(letter, letter + "axis") !== axis) return;
      var values = trace[letter] || (letter === "x" && trace.type === "box" ? [trace.name] : []);
      if (Array.isArray(values)) values.forEach(function (name) { names[name] = true; });
    });
    return Object.keys(names);
  }

  // pixels under a panel for its tick labels: names too wide to stand side by side are turned by plotly
  function ticksHeight(spec, panel, width) {
    if (!shows(spec.layout, panel.x)) return 6;
    var names = namesOn(spec, panel, "x"), longest = 0;
    names.forEach(function (name) {
      name.split("<br>").forEach(function (line) { longest = Math.max(longest, line.length); });
    });
    return (longest * LETTER + 8) * names.length < width ? TICKS : Math.min(140, 12 + longest * LETTER);
  }

  function stack(spec, all, width, change) {
    var layout = spec.layout, columns = all.length > MOST_IN_A_COLUMN ? 2 : 1, count = Math.ceil(all.length / columns);
    var wide = columns === 1 ? [[0, 1]] : [[0, 0.42], [0.58, 1]], each = wide[0][1] * (width - 80);
    var high = Math.round(Math.min(240, Math.max(columns === 1 ? 170 : 130, 0.62 * each)));
    var xTitles = all.map(function (panel) { return titleOf(layout[panel.x]); });
    var said = xTitles.filter(Boolean), same = said.every(function (text) { return text === said[0]; });
    var ticks = Math.max.apply(null, all.map(function (panel) { return ticksHeight(spec, panel, each); }));
    var broken = all.map(function (panel) {
      return panel.title < 0 ? [] : lines(layout.annotations[panel.title].text, each);
    });
    var over = LINE * Math.max.apply(null, broken.map(function (b) { return b.length; }));
    var gap = ticks + (same ? 0 : LINE + 8) + over + 10;
    var total = count * high + (count - 1) * gap;
    all.forEach(function (panel, k) {
      var row = Math.floor(k / columns), column = k % columns, top = 1 - row * (high + gap) / total;
      var across = wide[column], last = k + columns >= all.length;
      change[panel.x + ".domain"] = across;
      change[panel.y + ".domain"] = [Math.max(0, top - high / total), top];
      change[panel.x + ".showticklabels"] = shows(layout, panel.x);
      change[panel.y + ".showticklabels"] = shows(layout, panel.y) && (column === 0 || !layout[panel.y].matches);
      change[panel.x + ".title.text"] = same ? (last ? said[0] || "" : "") : xTitles[k];
      var first = all.filter(function (other) { return other.up[1] === panel.up[1]; })[0];
      var shared = layout[panel.y].matches === first.y.replace("axis", "");
      var words = titleOf(layout[panel.y]) || (shared ? titleOf(layout[first.y]) : "");
      change[panel.y + ".title.text"] = column ? "" : lines(words, high).join("<br>");
      if (panel.title < 0) return;
      var note = "annotations[" + panel.title + "]";
      change[note + ".x"] = (across[0] + across[1]) / 2;
      change[note + ".y"] = top + 2 / total;
      change[note + ".text"] = broken[k].join("<br>");
      change[note + ".font.size"] = 13;
    });
    var legend = legendHeight(spec, width - 60);
    change["legend.y"] = 1 + (over + 8) / total;
    change["legend.yanchor"] = "bottom";
    change["margin.t"] = 16 + over + legend;
    change.height = total + 16 + over + legend + 30 + ticks;
    return each;
  }

  return function (spec, width) {
    var all = panels(spec), change = {}, layout = spec.layout, hint = layout.meta || {}, phone = hint.phone || {};
    var starts = {};
    all.forEach(function (panel) { starts[panel.across[0]] = true; });
    var stacked = Object.keys(starts).length > 1, each = width - 80;
    if (stacked) each = stack(spec, all, width, change);
    else {
      var extra = phone.extra || hint.extra || 0;
      var height = hint.aspect ? Math.max(260, hint.aspect * (width - 48) + extra) : layout.height || 420;
      var taken = 70 + legendHeight(spec, width - 60), least = 140;
      all.forEach(function (panel) {
        taken = Math.max(taken, 48 + legendHeight(spec, width - 60) + ticksHeight(spec, panel, each));
        least = Math.max(least, 15 * namesOn(spec, panel, "y").length / (panel.up[1] - panel.up[0]));
      });
      height = Math.round(Math.max(height, taken + least));
      if (hint.aspect) change.height = height;
      all.forEach(function (panel) {
        var room = (height - taken) * (panel.up[1] - panel.up[0]);
        change[panel.y + ".title.text"] = lines(titleOf(layout[panel.y]), room).join("<br>");
      });
    }
    all.forEach(function (panel) {
      var turned = ticksHeight(spec, panel, each) > TICKS;
      if (layout[panel.x].tickangle === undefined) change[panel.x + ".tickangle"] = turned ? 90 : 0;
      var words = panel.x + ".title.text", text = words in change ? change[words] : titleOf(layout[panel.x]);
      if (text) change[words] = lines(text, width - 100).join("<br>");
    });
    return change;
  };
})();
