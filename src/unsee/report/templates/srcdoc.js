if (location.protocol === "about:") {
  const base = document.createElement("base");
  base.href = "about:srcdoc";
  document.head.append(base);
}
