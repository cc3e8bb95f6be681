(function () {
  "use strict";
  var PRINT_WIDTH = 640; // the text width of A4 and US letter at 96 pixels an inch
  var NARROW = 480; // below it a page is a phone's
  var plots = [];

  // what a figure asks for by its layout.meta: a shape, and changes where the page is narrow
  function fitted(wanted, width) {
    var hint = wanted.meta || {}, phone = hint.phone || {}, narrow = width < NARROW;
    var fit = {width: width, height: wanted.height || 420, "font.size": narrow ? 11 : wanted.font};
    var extra = narrow && phone.extra ? phone.extra : hint.extra || 0;
    if (hint.aspect) fit.height = Math.round(Math.max(260, hint.aspect * (width - (narrow ? 48 : 72)) + extra));
    if (narrow && wanted.changes.height) fit.height = wanted.changes.height;
    [wanted.changes, phone].forEach(function (changes) {
      Object.keys(changes).forEach(function (key) {
        if (key === "extra" || key === "height") return;
        fit[key] = narrow ? changes[key] : wanted.before[key];
      });
    });
    return fit;
  }

  // "annotations[2].font.size" of an object
  function dig(object, key) {
    return key.split(/[.[\]]+/).filter(Boolean).reduce(function (o, k) { return o == null ? undefined : o[k]; }, object);
  }

  // set it: what a first drawing would have to change again, plotly remembers
  function put(object, key, value) {
    var path = key.split(/[.[\]]+/).filter(Boolean), last = path.pop();
    path.forEach(function (k) { object = object[k] = object[k] || {}; });
    if (value !== undefined) object[last] = value;
  }

  function resize(width) {
    plots.forEach(function (plot) {
      var fit = fitted(plot.wanted, width > 0 ? width : plot.div.parentNode.clientWidth);
      if (fit.width === plot.width) return;
      plot.width = fit.width;
      plot.div.style.height = fit.height + "px";
      Plotly.relayout(plot.div, fit);
    });
  }

  document.querySelectorAll("script[data-plot]").forEach(function (source) {
    var div = document.getElementById(source.dataset.plot), spec = JSON.parse(source.textContent);
    var wanted = {height: spec.layout.height, meta: spec.layout.meta, font: dig(spec.layout, "font.size"), before: {}};
    wanted.changes = narrowed(spec, Math.min(div.parentNode.clientWidth, NARROW));
    [wanted.changes, (wanted.meta || {}).phone || {}].forEach(function (changes) {
      Object.keys(changes).forEach(function (key) { wanted.before[key] = dig(spec.layout, key); });
    });
    var width = div.parentNode.clientWidth, plot = {div: div, wanted: wanted, width: width};
    var fit = fitted(wanted, width);
    Object.keys(fit).forEach(function (key) { put(spec.layout, key, fit[key]); });
    div.style.height = fit.height + "px";
    Plotly.newPlot(div, spec.data, spec.layout, {displayModeBar: false, scrollZoom: false, showTips: false});
    plots.push(plot);
  });
  resize();

  var waiting = 0;
  window.addEventListener("resize", function () {
    clearTimeout(waiting);
    waiting = setTimeout(function () { resize(); }, 150);
  });
  var opened = [];
  window.addEventListener("beforeprint", function () {
    resize(PRINT_WIDTH);
    opened = Array.prototype.filter.call(document.querySelectorAll("details"), function (d) { return !d.open; });
    opened.forEach(function (d) { d.open = true; });
  });
  window.addEventListener("afterprint", function () {
    resize();
    opened.forEach(function (d) { d.open = false; });
  });
})();
