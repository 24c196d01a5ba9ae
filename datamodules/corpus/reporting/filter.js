// The page says everything without this; it only adds a field that hides the samples without a given text.
(function () {
  var form = document.getElementById("filter");
  if (!form) return;
  form.hidden = false;
  var input = form.querySelector("input"), told = form.querySelector("output");
  var groups = Array.prototype.slice.call(document.querySelectorAll("details.group"));
  input.addEventListener("input", function () {
    var wanted = input.value.trim().toLowerCase(), found = 0;
    groups.forEach(function (group) {
      var here = 0;
      group.querySelectorAll(".unit").forEach(function (unit) {
        var hit = !wanted || unit.textContent.toLowerCase().indexOf(wanted) >= 0;
        unit.hidden = !hit;
        here += hit ? 1 : 0;
      });
      group.hidden = Boolean(wanted) && !here;
      group.open = Boolean(wanted) && here > 0;
      found += here;
    });
    told.textContent = wanted ? found + " found" : "";
  });
})();
