const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const ink = dark.matches ? "#d5dae1" : "#2b3138", faint = dark.matches ? "#39424d" : "#dde2e8";
  const axis = {labelColor: ink, titleColor: ink, gridColor: faint, domainColor: faint, tickColor: faint};
  const config = {axis: axis, legend: {labelColor: ink}, text: {color: ink}, font: "system-ui, sans-serif"};
  for (const [name, spec] of Object.entries(charts))
    vegaEmbed("#chart-" + name, spec, {config: config, actions: false, renderer: "svg"});
}
dark.addEventListener("change", draw);
draw();
