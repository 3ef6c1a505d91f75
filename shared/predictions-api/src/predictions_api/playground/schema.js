// What the schema of a model declares.

/** Return the schemas of a model's latest version, or undefined until a server of it has stated them. */
export const schemasOf = model => model?.latest_version?.openapi_schema.components.schemas;

/** Return the inputs of a model in the order of the form: [name, schema]. */
export function inputsOf(model) {
  const schemas = schemasOf(model);
  const inputs = Object.entries(schemas?.Input.properties ?? {}).map(([name, schema]) => [name, resolve(schema, schemas)]);
  return inputs.sort(([, one], [, other]) => one["x-order"] - other["x-order"]);
}

/** Return a schema with what it refers to. */
function resolve(schema, schemas) {
  const parts = [...(schema.allOf ?? []), ...(schema.anyOf ?? []).filter(part => part.type !== "null")];
  const found = parts.map(part => (part.$ref ? schemas[part.$ref.split("/").at(-1)] : part));
  return Object.assign({}, ...found, schema);
}
